"""The normal number of breaks in an hour at an institution."""

from datetime import timedelta

import pytest

from worker.policy.outage import normal


@pytest.mark.parametrize(
    ("hours", "usual"),
    [
        ({}, 0.0),
        (dict.fromkeys(range(240), 4), 4.0),
        ({22 + 24 * night: 60 for night in range(10)}, 60.0),  # a nightly file with 60 breaks
        ({0: 500, 1: 500, 2: 500, 100: 3}, 1503 / 240),  # an outage that began three hours ago
        ({100: 500, 101: 500}, 1000 / 240),  # an outage that is over
        ({22: 60, 46: 60, 100: 500}, 60.0),
    ],
)
def test_an_hour_as_busy_as_those_of_other_days_is_usual(hours: dict[int, int], usual: float) -> None:
    assert normal(hours, timedelta(days=10)) == pytest.approx(usual)
