"""``MX_REQUESTS_PER_SECOND`` holds across the children of a real worker, as MX counts them."""

import threading
import time
from typing import Any

import pytest

from tests.faults.crew import Worker
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, get_json, wait_until

RATE, CHILDREN = 200, 4
MEMBERS = 30_000 if LONG else 2_400


class Stalls:
    """How long this machine lets a process wait that wants to run: arrivals pile up meanwhile, through nobody's fault."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._enough.is_set():
            before = time.monotonic()
            self._enough.wait(0.005)
            self.longest = max(self.longest, time.monotonic() - before - 0.01)

    def end(self) -> float:
        self._enough.set()
        self._thread.join()
        return self.longest


@pytest.mark.alone
@pytest.mark.timeout(400 if LONG else 120)
def test_four_children_keep_to_the_rate_and_use_it(
    machine: Machine, populated: Any, postgres: Any, schedule: Schedule
) -> None:
    machine.environment |= {"MX_REQUESTS_PER_SECOND": str(RATE), "RUN_SECONDS": "10", "LEASE_SECONDS": "120"}
    populated(MEMBERS, "--drop-bodies", "--latency", "0.05", url=postgres.database())
    assert machine("pause", "channel:email").code == 0  # the bank counts; it should have nothing else to do
    with Worker(machine, schedule, children=CHILDREN):
        stalls = Stalls()
        assert machine("sweep").code == 0
        wait_until(
            lambda: machine.ledger()["windows_minted"] == MEMBERS, seconds=MEMBERS / RATE * 2 + 30, what="all windows"
        )
        longest = stalls.end()
    counted = get_json(f"{machine.sandbox['base_url']}/sandbox/ledger/seconds?of=window")
    schedule.note(f"{counted}; longest stall of the machine {longest:.3f} s")
    print(schedule)
    # A fortieth more, and what a machine that stands still lets pile up.
    assert counted["peak"] <= RATE * (1 + max(0.025, longest)), counted
    # They use the rate whenever the machine lets them: not while four children compile their statements, nor while others have the cores,
    # since a moment that is missed by 30 ms is lost, nor at the end, when one after the other finds nothing left.
    full = sorted(counted["seconds"], reverse=True)[:3]
    assert min(full) >= 0.95 * RATE, counted
