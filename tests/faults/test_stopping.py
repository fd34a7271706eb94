"""SIGTERM during load: what is begun is finished, the rest is handed back at once, and nothing waits for a lease."""

from typing import Any

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Worker
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, wait_until

STOPS, MEMBERS = (30, 15_000) if LONG else (2, 2_000)
#: The short form leaves PostgreSQL to the tests that kill.
DATABASES = ["sqlite", "postgresql"] if LONG else ["sqlite"]


@pytest.mark.timeout(3600 if LONG else 180)
@pytest.mark.parametrize("database", DATABASES)
def test_after_sigterm_nothing_is_held_and_nothing_is_unknown(
    machine: Machine, populated: Any, request: pytest.FixtureRequest, schedule: Schedule, database: str
) -> None:
    url = request.getfixturevalue("postgres").database() if database == "postgresql" else None
    records = populated(MEMBERS, "--drop-bodies", "--latency", "0.2", "--mail-latency", "0.005", url=url)
    # Leases that no test could sit out.
    machine.environment |= {"LEASE_SECONDS": "3600", "MX_MAX_CONNECTIONS": "20", "BATCH_SIZE": "100"}
    stopped_busy = 0
    for round_ in range(STOPS):
        with Worker(machine, schedule) as worker:
            assert machine("sweep").code == 0
            wait_until(lambda: {"leased", "sending"} & records.in_hand().keys(), what="work in hand")
            schedule.pause(0.0, 1.5)
            stopped_busy += bool({"leased", "sending"} & records.in_hand().keys())
            worker.stop(group=bool(round_ % 2), within=25)
        held = {"leased", "sending"} & records.in_hand().keys()
        assert not held, f"still {held} after the stop"
        assert "unknown" not in records.counts("notifications")
    assert stopped_busy, "every stop fell on an idle worker"
    machine.control(latency=0, mail_latency=0)
    with Worker(machine, schedule):
        assert machine("sweep").code == 0
        records.wait_until_nothing_is_in_hand(seconds=600 if LONG else 60)
    figures = compare(machine, records, broken=MEMBERS, ends=())
    assert figures.reconnections == {"notified": MEMBERS}
    assert figures.notifications == {"sent": MEMBERS}
    assert records.one("SELECT max(lost_leases) FROM reconnections") == 0
