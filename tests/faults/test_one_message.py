"""Concurrent claims keep a user's banks together: each user gets one message, however many workers there are."""

from typing import Any

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Worker
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine

USERS, BANKS = (10_000 if LONG else 80), 4


@pytest.mark.timeout(600 if LONG else 120)
def test_everybody_gets_one_message_for_all_their_banks(
    machine: Machine, populated: Any, postgres: Any, schedule: Schedule
) -> None:
    records = populated(USERS * BANKS, "--drop-bodies", url=postgres.database(), users=USERS)
    machine.environment["BATCH_SIZE"] = "50"
    with Worker(machine, schedule, children=3):
        assert machine("sweep").code == 0
        records.wait_until_nothing_is_unfinished(seconds=300 if LONG else 60)
    figures = compare(machine, records, broken=USERS * BANKS, schedule=schedule, ends=())
    assert figures.notifications == {"sent": USERS}
    assert figures.reconnections == {"notified": USERS * BANKS}
