"""SIGKILL at random moments, to children and to the main process: every user is told, and only once."""

from typing import Any

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Cron, Worker
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, wait_until

KILLS, MEMBERS = (150, 20_000) if LONG else (5, 800)


@pytest.mark.timeout(7200 if LONG else 300)
def test_nobody_is_lost_and_nobody_is_mailed_twice_when_workers_are_killed(
    machine: Machine, populated: Any, postgres: Any, schedule: Schedule
) -> None:
    records = populated(MEMBERS, "--drop-bodies", "--latency", "0.1", url=postgres.database())
    # About 100 members a second: slow enough that the kills happen during the work.
    machine.environment |= {"MX_MAX_CONNECTIONS": "10", "BATCH_SIZE": "100", "RUN_SECONDS": "5"}
    busy = 0
    with Worker(machine, schedule) as worker, Cron(machine, every=2 if LONG else 4) as cron:
        wait_until(records.unfinished, seconds=120, what="the first sweep")
        for _ in range(KILLS):
            schedule.pause(0.2, 1.6)
            busy += bool(records.unfinished())
            if schedule.rng.random() < 0.25:
                worker.kill_main()
            else:
                worker.kill_a_child()
        schedule.note("no more kills")
        machine.control(latency=0)
        records.wait_until_nothing_is_unfinished(seconds=1200 if LONG else 120)
        schedule.note("nothing in hand")
        worker.expect_no_orphans()
        schedule.note("no orphans")
    assert busy >= KILLS * 0.8, "the kills fell on idle workers"
    cron.expect_plain_words()
    figures = compare(machine, records, broken=MEMBERS, schedule=schedule, deaths=("killed",), ends=())
    print(figures, schedule)
    assert figures.reconnections == {"notified": MEMBERS}
    assert all(ran.code == 0 for ran in cron.ran)
