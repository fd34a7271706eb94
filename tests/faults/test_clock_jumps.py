"""The wall clock of a worker jumps by an hour: leases hold, and no message is sent in a user's quiet hours."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Worker
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, wait_until

MEMBERS = 5_000 if LONG else 150
WALL_CLOCK = Path(__file__).parent / "wall_clock"

#: By the clock's jump (seconds): two time zones. In the first it is not quiet now, but the jumped clock says that it is. In the
#: second it is quiet now, but the jumped clock says that it is not. (POSIX inverts the sign: Etc/GMT+1 is an hour behind UTC.)
ZONES = {3600: ("Etc/GMT+1", "Etc/GMT"), -3600: ("Etc/GMT-1", "Etc/GMT")}


@pytest.mark.longest
@pytest.mark.timeout(300)
@pytest.mark.parametrize("jump", list(ZONES) if LONG else [3600])
def test_when_a_workers_clock_jumps_leases_hold_and_quiet_hours_are_kept(
    machine: Machine, populated: Any, schedule: Schedule, jump: int
) -> None:
    awake, asleep = ZONES[jump]
    now = datetime.now(UTC)
    quiet = f"{now - timedelta(minutes=25):%H:%M}-{now + timedelta(minutes=25):%H:%M}"
    columns = {"timezone": lambda n: (awake, asleep)[n % 2]}
    records = populated(MEMBERS, "--drop-bodies", "--latency", "0.3", columns=columns)
    clock = machine.folder / "clock"
    machine.environment |= {"QUIET_HOURS": quiet, "MX_MAX_CONNECTIONS": "10", "BATCH_SIZE": "50", "LEASE_SECONDS": "60"}
    jumping = {"CLOCK_FILE": str(clock), "PYTHONPATH": f"{WALL_CLOCK}:{WALL_CLOCK.parents[2]}"}
    with Worker(machine, schedule, environment=jumping):
        assert machine("sweep").code == 0
        wait_until(lambda: records.counts("notifications"), what="the first message")
        assert "leased" in records.unfinished()
        clock.write_text(str(jump))
        schedule.note(f"the worker's clock jumps by {jump} s")
        # A sweep whose clock has jumped too recovers no lease.
        assert machine.json("sweep", environment=jumping)["recovered"] == 0
        wait_until(lambda: records.counts("reconnections").get("notified") == MEMBERS // 2, seconds=60, what="the work")
        records.wait_until_nothing_is_unfinished(seconds=30)
    assert jumped_log(machine), "the worker's clock did not jump"
    figures = compare(machine, records, broken=MEMBERS, ends=())
    assert figures.reconnections == {"notified": MEMBERS // 2, "due": MEMBERS // 2}
    assert figures.minted == figures.stored == MEMBERS // 2, "something was fetched twice"
    assert records.one("SELECT max(lost_leases) FROM reconnections") == 0
    told = records.all("SELECT DISTINCT u.timezone FROM notifications n JOIN users u ON u.user_guid = n.user_guid")
    assert [row.timezone for row in told] == [awake]
    waiting = records.all("SELECT DISTINCT outcome FROM reconnections WHERE state = 'due'")
    assert [row.outcome for row in waiting] == ["quiet_hours"]


@pytest.mark.timeout(120)
def test_a_worker_whose_clock_is_an_hour_ahead_still_takes_the_work(
    machine: Machine, populated: Any, schedule: Schedule
) -> None:
    """Other processes with a right clock wake it. If tasks expired within an hour, this worker would take them for expired."""
    records = populated(20, "--drop-bodies")
    clock = machine.folder / "clock"
    clock.write_text("3600")
    ahead = {"CLOCK_FILE": str(clock), "PYTHONPATH": f"{WALL_CLOCK}:{WALL_CLOCK.parents[2]}"}
    with Worker(machine, schedule, children=1, environment=ahead):
        assert machine("sweep").code == 0
        wait_until(lambda: records.counts("notifications") == {"sent": 20}, seconds=15, what="the work")


def jumped_log(machine: Machine) -> bool:
    """Whether the last line of the worker's log has another time than ours."""
    stamps = [line for line in (machine.folder / "worker.log").read_text().splitlines() if '"timestamp"' in line]
    last = datetime.fromisoformat(stamps[-1].split('"timestamp": "')[1][:26]).replace(tzinfo=UTC)
    return abs((last - datetime.now(UTC)).total_seconds()) > 3000
