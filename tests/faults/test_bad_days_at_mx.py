"""MX answers with every fault that the sandbox has, refuses all requests, or answers with ``Retry-After: 120``."""

from collections import Counter
from typing import Any

import pytest
import redis

from tests.faults.comparison import compare
from tests.faults.crew import Cron, Worker
from tests.faults.records import Records
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, wait_until
from worker.sandbox.oauth_uris import HOSTILE_KINDS

MANY, SOME = (3_000, 2_000) if LONG else (200, 150)

#: These answers open the breaker, so they are ten times rarer than the others.
_REFUSALS = ["401", "403", "406"]
_FAULTS = [
    "409", "429", "429:1", "500", "502", "503", "503:1", "504", "slow:0.3", "reset", "truncated", "html",
    "null_uri", "missing_uri", "empty_uri", "unsupported", "gone", "rejected", "connected",
    *(f"hostile:{kind}" for kind in HOSTILE_KINDS),
]  # fmt: skip


def _mixed() -> list[str]:
    return [*_REFUSALS, *(_FAULTS * 10)]


@pytest.mark.timeout(1800 if LONG else 180)
def test_with_a_third_of_all_answers_faulty_everybody_comes_to_the_end_that_mx_named(
    machine: Machine, populated: Any, schedule: Schedule
) -> None:
    machine.environment |= {"MX_ALLOWED_URI_HOSTS": "*.sandbox.example", "BATCH_SIZE": "100"}
    records = populated(MANY, "--drop-bodies")
    machine.control(mix=_mixed(), share=0.3, seed=schedule.seed)
    with Worker(machine, schedule), Cron(machine, every=0.5 if LONG else 2) as cron:
        wait_until(lambda: records.one("SELECT count(*) FROM reconnections") == MANY, what="the first sweep")
        wait_until(lambda: _nobody_is_on_the_way(records), seconds=900 if LONG else 90, what="everybody's end", grain=1)
        # Half of the users who were told come back, and every third check is answered with a fault.
        told = [row[0] for row in records.all("SELECT member_guid FROM reconnections WHERE state = 'notified'")]
        back = set(told[::2])
        machine.control(consent=sorted(back))

        def are_seen() -> bool:
            records.pass_time("pauses")
            if not records.looks_due():
                records.pass_time("looks")
            left = records.all("SELECT member_guid FROM reconnections WHERE state = 'notified'")
            return back.isdisjoint(row[0] for row in left)

        wait_until(are_seen, seconds=300 if LONG else 60, what="the sight of those who are back", grain=1)
        machine.control(fault=None)
        records.pass_time("pauses")
        records.wait_until_nothing_is_unfinished(seconds=30)
    cron.expect_plain_words()
    steps = Counter(machine.ledger()["steps"])  # a Counter: a fault that was never drawn counts 0
    figures = compare(
        machine, records, broken=MANY, schedule=schedule, ends=("gone", "unsupported", "quarantined", "reconnected")
    )
    quarantined = sum(count for step, count in steps.items() if step.startswith("hostile") or step == "rejected")
    named = {
        "gone": steps["gone"],
        "unsupported": steps["unsupported"],
        "quarantined": quarantined,
        "reconnected": steps["connected"] + len(back),
        "notified": len(told) - len(back),
    }
    assert figures.reconnections == {state: count for state, count in named.items() if count}
    assert figures.notifications == {"sent": len(told)}


def _nobody_is_on_the_way(records: Records) -> bool:
    """Make retries and probes due; return whether no reconnection is due, leased or ready."""
    records.pass_time("retries", "pauses")
    states = records.counts("reconnections")
    return not states.keys() & {"due", "leased", "ready"}


@pytest.mark.longest
@pytest.mark.timeout(900 if LONG else 150)
def test_when_mx_refuses_everybody_nobody_pays_for_it(machine: Machine, populated: Any, schedule: Schedule) -> None:
    """Minutes of 503, then keys that are revoked and restored: the breaker opens, and attempts stay as they are."""
    machine.environment |= {"MX_MAX_CONNECTIONS": "10", "BATCH_SIZE": "50"}
    records = populated(SOME, "--drop-bodies", "--latency", "0.3")
    with Worker(machine, schedule):
        for trouble, end, said in (
            ({"fault": "503"}, {"fault": None}, "503"),
            ({"keys": "revoke"}, {"keys": "restore"}, "401"),
        ):
            before = machine.ledger()["windows_minted"]
            assert machine("sweep").code == 0
            wait_until(lambda before=before: machine.ledger()["windows_minted"] > before + 10, what="work at MX")
            machine.control(**trouble)
            schedule.note(f"MX: {trouble}")
            wait_until(lambda: _pauses(records), what="the breaker")
            ((scope, reason),) = _pauses(records)
            assert scope == "mx"
            assert said in reason
            _wait_for_empty_hands(records)
            for _ in range(10 if LONG else 1):  # a minute passes, and one probe goes out
                asked = machine.ledger()["requests"]
                records.pass_time("pauses")
                assert machine("sweep").code == 0
                wait_until(lambda asked=asked: machine.ledger()["requests"] > asked, what="a probe")
                _wait_for_empty_hands(records)
                assert machine.ledger()["requests"] <= asked + 4, (
                    "more than one call was made while the breaker was open"
                )
            assert records.one("SELECT max(attempts) FROM reconnections") == 0
            assert not records.counts("reconnections").keys() - {"due", "ready", "notified"}
            assert said in machine("status").out
            machine.control(**end)
            records.pass_time("pauses")
            assert machine("sweep").code == 0
            wait_until(lambda: not _pauses(records), what="the breaker's closing")
        machine.control(latency=0)
        assert machine("sweep").code == 0
        records.wait_until_nothing_is_unfinished(seconds=60)
        figures = compare(machine, records, broken=SOME, ends=())
        assert figures.reconnections == {"notified": SOME}
        assert figures.notifications == {"sent": SOME}
        _the_breaker_closes_even_if_nobody_is_due(machine, records)


def _the_breaker_closes_even_if_nobody_is_due(machine: Machine, records: Records) -> None:
    """A check gets a 401 and opens the breaker. No reconnection is due for a probe, and it closes all the same."""
    machine.control(keys="revoke")
    records.pass_time("looks")
    assert machine("sweep").code == 0
    wait_until(lambda: _pauses(records), what="the breaker")
    assert "401" in machine("doctor").out
    machine.control(keys="restore")

    def is_closed() -> bool:
        records.pass_time("pauses")
        assert machine("sweep").code == 0
        return not _pauses(records)

    wait_until(is_closed, seconds=15, what="the closing of a breaker with nobody due")


def _pauses(records: Records) -> list[tuple[str, str]]:
    return [(row.scope, row.reason) for row in records.all("SELECT scope, reason FROM pauses")]


def _wait_for_empty_hands(records: Records) -> None:
    """Wait until no row is claimed."""
    wait_until(lambda: not {"leased", "sending"} & records.unfinished().keys(), what="empty hands")


@pytest.mark.longest
@pytest.mark.timeout(120)
def test_a_retry_after_of_two_minutes_silences_every_process(
    machine: Machine, populated: Any, own_valkey: Any, schedule: Schedule
) -> None:
    connections, children, latency = 10, 2, 0.2
    machine.environment |= {"MX_MAX_CONNECTIONS": str(connections), "BATCH_SIZE": "50"}
    records = populated(SOME, "--drop-bodies", "--latency", str(latency))
    machine.control(fault="429:120")
    with Worker(machine, schedule, children=children):
        assert machine("sweep").code == 0
        wait_until(lambda: machine.ledger()["statuses"].get("429"), what="the first 429")
        for _ in range(2):
            assert machine("sweep").code == 0
            _wait_for_empty_hands(records)
        asked = machine.ledger()["requests"]
        # The requests in flight at the first 429, and those of other processes, which learn of it up to a second later.
        assert asked <= connections * children * (1 + 1.5 / latency), (
            "others went on asking after MX had asked for silence"
        )
        assert records.one("SELECT max(attempts) FROM reconnections") == 0
        machine.control(fault=None, latency=0)
        for _ in range(2):
            assert machine("sweep").code == 0
            _wait_for_empty_hands(records)
        assert machine.ledger()["requests"] == asked, "MX was asked before its two minutes were over"
    # As if two minutes had passed: the silence is in Redis, the moments of the retries are in the database.
    with redis.Redis.from_url(own_valkey.url) as client:
        client.delete("reconnect:pacing:mx")
    records.pass_time("retries")
    with Worker(machine, schedule, children=children):
        assert machine("sweep").code == 0
        records.wait_until_nothing_is_unfinished(seconds=60)
    figures = compare(machine, records, broken=SOME, ends=())
    assert figures.reconnections == {"notified": SOME}
