"""Broker and database go away during the work and come back: the broker empty, the database after a crash, or both at once."""

from typing import Any

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Cron, Worker
from tests.faults.schedule import LONG, Schedule
from tests.faults.servers import OwnPostgres, OwnValkey
from tests.machine import Machine, wait_until

#: With 40 calls in flight the work takes longer than all the faults, on the fastest machine too.
ROUNDS, MEMBERS, LATENCY = (6, 15_000, "0.2") if LONG else (1, 800, "1")


@pytest.mark.timeout(3600 if LONG else 240)
def test_broker_and_database_may_go_away_at_any_moment(
    machine: Machine, populated: Any, own_valkey: OwnValkey, own_postgres: OwnPostgres, schedule: Schedule
) -> None:
    records = populated(MEMBERS, "--drop-bodies", "--latency", LATENCY, url=own_postgres.url)
    machine.environment |= {"MX_MAX_CONNECTIONS": "20", "BATCH_SIZE": "100", "RUN_SECONDS": "3"}

    def valkey_killed() -> None:
        own_valkey.kill()
        schedule.pause(0.5, 2.0)
        own_valkey.start()

    def both_at_once() -> None:
        own_valkey.kill()
        own_postgres.stop("immediate")
        schedule.pause(0.5, 2.0)
        own_postgres.start()
        own_valkey.start()

    deeds = {
        "FLUSHALL": own_valkey.flush,
        "Valkey killed, restarted empty": valkey_killed,
        "PostgreSQL restarted, fast": lambda: own_postgres.restart("fast"),
        "PostgreSQL restarted, immediate": lambda: own_postgres.restart("immediate"),
        "both killed at once": both_at_once,
    }
    with Worker(machine, schedule) as worker, Cron(machine, every=2 if LONG else 4) as cron:
        main = worker.process.pid
        wait_until(lambda: machine.ledger()["requests"], what="the first request")
        for _ in range(ROUNDS):
            names = list(deeds)
            schedule.rng.shuffle(names)
            for name in names:
                schedule.pause(0.3, 2.0)
                assert records.unfinished(), "the work was over too soon"
                schedule.note(name)
                deeds[name]()
        machine.control(latency=0)
        schedule.note("all is well again")
        records.wait_until_nothing_is_unfinished(seconds=900 if LONG else 90)
        survived = worker.process.pid == main
    # Transactions are tried again for longer than any of these faults lasted.
    assert [ran.err for ran in cron.ran if ran.code] == []
    cron.expect_plain_words()
    figures = compare(machine, records, broken=MEMBERS, schedule=schedule, deaths=("PostgreSQL", "both"), ends=())
    print(figures, schedule)
    assert figures.reconnections == {"notified": MEMBERS}
    log = (machine.folder / "worker.log").read_text()
    assert survived, "the worker did not outlive it"
    assert "stage_failed" not in log
    assert "Traceback (most recent call last)" not in log
