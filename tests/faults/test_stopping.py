"""SIGTERM under load: begun work is finished, the other claimed rows are released at once, and no row waits for a lease to expire."""

import json
import signal
import sys
from typing import Any

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Worker, is_alive
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, wait_until

STOPS, MEMBERS = (15, 8_000) if LONG else (1, 500)
TRIES = 150 if LONG else 3
#: In the short form only the tests of kills use PostgreSQL.
DATABASES = ["sqlite", "postgresql"] if LONG else ["sqlite"]


@pytest.mark.timeout(3600 if LONG else 300)
@pytest.mark.parametrize("database", DATABASES)
def test_after_sigterm_nothing_is_held_and_nothing_is_unknown(
    machine: Machine, populated: Any, request: pytest.FixtureRequest, schedule: Schedule, database: str
) -> None:
    url = request.getfixturevalue("postgres").database() if database == "postgresql" else None
    records = populated(MEMBERS, "--drop-bodies", "--latency", "0.2", "--mail-latency", "0.005", url=url)
    # Leases of an hour: a row that waited for its lease would fail the test.
    machine.environment |= {"LEASE_SECONDS": "3600", "MX_MAX_CONNECTIONS": "20", "BATCH_SIZE": "100"}
    stopped_busy = 0
    for result in range(STOPS):
        with Worker(machine, schedule) as worker:
            assert machine("sweep").code == 0
            wait_until(lambda: {"leased", "sending"} & records.unfinished().keys(), what="work in hand")
            schedule.pause(0.0, 1.5 if LONG else 0.8)
            stopped_busy += bool({"leased", "sending"} & records.unfinished().keys())
            worker.stop(group=bool(result % 2) or not LONG, within=25)
        held = {"leased", "sending"} & records.unfinished().keys()
        assert not held, f"still {held} after the stop"
        assert "unknown" not in records.counts("notifications")
    assert stopped_busy, "every stop fell on an idle worker"
    machine.control(latency=0, mail_latency=0)
    with Worker(machine, schedule):
        assert machine("sweep").code == 0
        records.wait_until_nothing_is_unfinished(seconds=600 if LONG else 60)
    figures = compare(machine, records, broken=MEMBERS, ends=())
    assert figures.reconnections == {"notified": MEMBERS}
    assert figures.notifications == {"sent": MEMBERS}
    assert records.one("SELECT max(lost_leases) FROM reconnections") == 0


@pytest.mark.longest
@pytest.mark.timeout(4 * 3600 if LONG else 180)
def test_there_is_no_moment_at_which_a_sigterm_to_the_group_kills_a_child(machine: Machine, schedule: Schedule) -> None:
    """Moments between the fork, the initialisation and the first task of a child: see ``stop_at_start``."""
    began = machine.start(
        "stops",
        sys.executable,
        "-m",
        "tests.faults.stop_at_start",
        str(TRIES),
        str(schedule.seed),
        "2",
        str(machine.folder),
    )
    assert began.wait() == 0
    log = (machine.folder / "stops.log").read_text()
    became = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert len(became) == TRIES, log
    wrong = [each for each in became if each["code"] != 0 or each["killed"] or each["left"] or each["log"]]
    assert not wrong, f"{len(wrong)} of {TRIES}: {wrong[:5]}"
    print(f"{TRIES} workers, {sum(each['born'] for each in became)} children, none killed")


@pytest.mark.timeout(120)
def test_a_child_obeys_its_main_process_and_nobody_else(machine: Machine, schedule: Schedule) -> None:
    """A cold stop and a time limit need it: there the main process ends a child with SIGTERM."""
    with Worker(machine, schedule, children=2) as worker:
        children = worker.its_children()
        for each in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            for child in children:
                child.send_signal(each)
        assert machine("migrate").code == 0
        ping = "from worker.app import app; import sys; app.control.pool_shrink(1); sys.exit(not app.control.ping(timeout=5))"
        assert machine.start("shrink", sys.executable, "-c", ping).wait(60) == 0
        wait_until(lambda: sum(map(is_alive, children)) == 1, what="the end of one of them")
        assert worker.its_children() == [child for child in children if is_alive(child)], (
            "another was started in its place"
        )
    assert "exited with" not in (machine.folder / "worker.log").read_text()
