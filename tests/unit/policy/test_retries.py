"""The waits between attempts grow, and are random so that failures do not repeat together."""

from datetime import UTC, datetime, timedelta
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.retries import SCHEDULE, next_attempt

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Loaded(Random):
    """An rng that always returns the same number."""

    def __init__(self, shows: float) -> None:
        super().__init__()
        self.shows = shows

    def random(self) -> float:
        return self.shows


def test_the_schedule_is_the_one_in_the_books() -> None:
    assert [str(wait) for wait in SCHEDULE] == ["0:01:00", "0:05:00", "0:30:00", "2:00:00", "6:00:00", "1 day, 0:00:00"]


@pytest.mark.parametrize(
    ("attempts", "patient", "longest"),
    [
        (1, False, timedelta(minutes=1)),
        (2, False, timedelta(minutes=5)),
        (3, False, timedelta(minutes=30)),
        (4, False, timedelta(hours=2)),
        (5, False, timedelta(hours=6)),
        (6, False, timedelta(hours=24)),
        (7, False, timedelta(hours=24)),
        (100, False, timedelta(hours=24)),
        (1, True, timedelta(minutes=5)),
        (5, True, timedelta(hours=24)),
        (6, True, timedelta(hours=24)),
    ],
)
def test_the_longest_wait_is_the_one_of_the_schedule(attempts: int, patient: bool, longest: timedelta) -> None:
    assert next_attempt(attempts, now=NOW, rng=Loaded(1.0), patient=patient) == NOW + longest
    assert next_attempt(attempts, now=NOW, rng=Loaded(0.5), patient=patient) == NOW + longest / 2


@given(
    attempts=st.integers(1, 200),
    rng=st.randoms(use_true_random=False),
    after=st.none() | st.floats(0, 86_400),
    patient=st.booleans(),
)
def test_a_wait_lies_between_a_second_and_the_schedule_on_top_of_what_was_asked_for(
    attempts: int, rng: Random, after: float | None, patient: bool
) -> None:
    wait = next_attempt(attempts, now=NOW, rng=rng, after=after, patient=patient) - NOW
    asked = timedelta(seconds=after or 0)
    step = min(attempts - 1 + patient, len(SCHEDULE) - 1)
    assert asked + SECOND <= wait <= asked + SCHEDULE[step]


@pytest.mark.parametrize("after", [None, 120.0])
def test_what_failed_together_comes_back_spread_over_the_whole_wait(after: float | None) -> None:
    rng, longest, asked = Random(7), SCHEDULE[2], timedelta(seconds=after or 0)
    waits = [next_attempt(3, now=NOW, rng=rng, after=after) - NOW - asked for _ in range(4_000)]
    tenths = [0] * 10
    for wait in waits:
        tenths[min(int(wait / longest * 10), 9)] += 1
    assert all(300 < count < 500 for count in tenths)  # the mean is 400
    assert abs(mean(wait / longest for wait in waits) - 0.5) < 0.02
    assert len(set(waits)) > 3_900


def test_a_draw_of_nothing_still_waits_a_second() -> None:
    assert next_attempt(1, now=NOW, rng=Loaded(0.0)) == NOW + SECOND
    assert next_attempt(1, now=NOW, rng=Loaded(0.0), after=30.0) == NOW + timedelta(seconds=31)
