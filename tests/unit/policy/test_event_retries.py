"""When an event is posted again, and when no further attempt is made."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.event_retries import LONGEST_WAIT, SCHEDULE, SOON, after_failure, counts_as_attempt

NOW = datetime(2026, 11, 27, tzinfo=UTC)


@given(attempts=st.integers(0, 20), counts=st.booleans(), seed=st.integers(), asked=st.none() | st.floats(0, 1e9))
def test_waits_grow_and_the_tenth_counted_failure_gives_up(
    attempts: int, counts: bool, seed: int, asked: float | None
) -> None:
    retry = after_failure(attempts, counts=counts, now=NOW, rng=Random(seed), retry_after=asked)
    assert retry.attempts == attempts + counts
    assert (retry.at is None) == (retry.attempts > len(SCHEDULE))
    if retry.at is not None:
        wait = SCHEDULE[retry.attempts - 1] if counts else SOON
        least = max(wait * 0.9, min(timedelta(seconds=asked or 0), LONGEST_WAIT))
        assert least - timedelta(microseconds=2) <= retry.at - NOW <= max(wait * 1.1, LONGEST_WAIT)


@pytest.mark.parametrize(
    ("tried", "accepted", "counts"), [(None, 1, False), (1, None, False), (1, 1, False), (2, 1, False), (1, 2, True)]
)
def test_a_failure_counts_only_if_another_event_was_accepted_since_the_last_try(
    tried: int | None, accepted: int | None, counts: bool
) -> None:
    def at(hours: int | None) -> datetime | None:
        return None if hours is None else NOW + timedelta(hours=hours)

    assert counts_as_attempt(at(tried), at(accepted)) is counts
