"""SIGKILL at random moments while events are posted to an unreliable endpoint: each transition has its event, and each event its
transition.
"""

import json
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.events import expected, of_moves
from tests.faults.crew import Cron, Worker
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, wait_until
from tests.receiver import KEY, OLD_KEY, Receiver, receiving_aside

KILLS, MEMBERS = (20, 4_000) if LONG else (2, 250)


def _unreliable(receiver: Receiver, schedule: Schedule) -> None:
    """Of a hundred requests some fail, some lose their answer, and one hangs."""
    mixed = [500, 500, 429, 301, "lose", "lose", "lose", "hang"]

    def behave(_event: dict[str, Any], nth: int) -> Any:
        draw = schedule.rng.randrange(100)
        return mixed[draw] if draw < len(mixed) and nth < 3 else 204

    receiver.behave = behave


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"] if LONG else ["postgresql"])
@pytest.mark.timeout(1800 if LONG else 400)
def test_under_sigkill_every_move_has_its_event_and_each_arrives_in_order(
    machine: Machine, populated: Any, postgres: Any, schedule: Schedule, kind: str
) -> None:
    with receiving_aside() as receiver:
        _unreliable(receiver, schedule)
        machine.environment |= {"EVENTS_URL": receiver.url, "EVENTS_SECRETS": f"{KEY},{OLD_KEY}"}
        machine.environment |= {"MX_MAX_CONNECTIONS": "10", "BATCH_SIZE": "50", "RUN_SECONDS": "5"}
        url = postgres.database() if kind == "postgresql" else None
        records = populated(MEMBERS, "--drop-bodies", "--latency", "0.1", url=url)
        with Worker(machine, schedule) as worker, Cron(machine, every=2 if LONG else 4):
            wait_until(records.unfinished, seconds=120, what="the first sweep")
            for _ in range(KILLS):
                schedule.pause(0.3, 1.6)
                if schedule.rng.random() < 0.25:
                    worker.kill_main()
                else:
                    worker.kill_a_child()
            schedule.note("no more kills")
            machine.control(latency=0)
            records.wait_until_nothing_is_unfinished(seconds=600 if LONG else 120)
            schedule.note("nothing in hand")
            receiver.behave = lambda *_: 204

            def all_posted() -> bool:
                records.pass_time("pauses")
                # The worker updates the same rows in another order. After a deadlock this update is tried again.
                with suppress(OperationalError):
                    records.run(
                        "UPDATE events SET next_attempt_at = created_at WHERE state = 'waiting' AND lease_worker IS NULL"
                    )
                return not records.one("SELECT count(*) FROM events WHERE state = 'waiting'")

            wait_until(all_posted, seconds=600 if LONG else 150, what="the last event", grain=1)
        told = [
            (row[0], row[1], json.loads(row[2]))
            for row in records.all("SELECT event_id, type, data FROM events ORDER BY id")
        ]
        moves = [
            (row[0], row[1], row[2] or "", row[3])
            for row in records.all("SELECT what, id, before, after FROM observed")
        ]
        assert of_moves((type_, data) for _, type_, data in told) == expected(moves)
        assert len(told) >= 3 * MEMBERS  # opened, notified, sent
        assert {id_ for id_, _, _ in told} == {event["id"] for event in receiver.kept}
        assert receiver.unverified == 0
        for key in ("user_guid", "reconnection_id"):
            assert [
                found for found in receiver.sequences(key).values() if found != sorted(found) and len(found) < 100
            ] == []
