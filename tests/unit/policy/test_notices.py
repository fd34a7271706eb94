"""A notice comes before the expiry and once for each notice day, and ends when the date moves or the member breaks."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.notices import DRIFT, ending, is_near, next_notice
from worker.policy.selection import MemberFacts
from worker.policy.states import ReconnectionState

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
STATUSES = ("DENIED",)
notice_days = st.lists(st.integers(1, 60), min_size=1, max_size=5, unique=True).map(
    lambda days: tuple(sorted(days, reverse=True))
)


@given(days=notice_days, left=st.floats(0, 70), delay=st.floats(0, 2))
def test_each_notice_has_a_day_of_its_own_and_none_comes_after_the_expiry(
    days: tuple[int, ...], left: float, delay: float
) -> None:
    expires_at = NOW + left * DAY
    told_at, count = NOW, 1
    while (following := next_notice(expires_at, days, told_at=told_at)) is not None:
        assert following > told_at + 12 * HOUR
        assert following < expires_at
        told_at, count = following + delay * DAY, count + 1
    assert count <= len(days) + 1


def test_a_notice_that_was_held_up_speaks_for_the_next_day_if_that_is_near() -> None:
    expires_at = NOW + 2 * DAY + 6 * HOUR
    assert next_notice(expires_at, (7, 2), told_at=NOW) is None
    assert next_notice(expires_at, (7, 2), told_at=NOW - 7 * HOUR) == NOW + 6 * HOUR
    # With notice days 2 and 1 both notices come, even if quiet hours deferred the first.
    assert next_notice(expires_at, (2, 1), told_at=NOW + 17 * HOUR) == expires_at - DAY


@pytest.mark.parametrize(
    ("facts", "days", "near"),
    [
        ({"token_expires_at": NOW + 7 * DAY}, (7, 2), True),
        ({"token_expires_at": NOW + 7 * DAY + timedelta(seconds=1)}, (7, 2), False),
        ({"token_expires_at": NOW + timedelta(seconds=1)}, (2,), True),
        ({"token_expires_at": NOW}, (7, 2), False),
        ({"token_expires_at": NOW + DAY}, (), False),
        ({"token_expires_at": NOW + DAY, "connection_status": "CONNECTED"}, (7,), True),
        ({"token_expires_at": NOW + DAY, "connection_status": "CLOSED"}, (7,), False),
        ({"token_expires_at": NOW + DAY, "connection_status": "DENIED"}, (7,), False),
        ({"token_expires_at": NOW + DAY, "is_oauth": False}, (7,), False),
        ({"token_expires_at": NOW + DAY, "token_revoked_at": NOW}, (7,), False),
        ({}, (7,), False),
    ],
)
def test_near_means_well_and_within_the_first_day(facts: dict[str, object], days: tuple[int, ...], near: bool) -> None:
    member = MemberFacts(**facts)  # type: ignore[arg-type]
    assert is_near(member, statuses=STATUSES, days=days, now=NOW) is near


@pytest.mark.parametrize(
    ("facts", "days", "end"),
    [
        ({"token_expires_at": NOW + DAY}, (7,), None),
        ({"token_expires_at": NOW + DAY + DRIFT}, (7,), None),
        ({"token_expires_at": NOW + DAY - DRIFT}, (7,), None),
        ({"token_expires_at": NOW + DAY + 2 * DRIFT}, (7,), ("reconnected", "renewed")),
        ({"token_expires_at": NOW + DAY + 2 * DRIFT, "is_reckoned": True}, (7,), ("cancelled", "expiry_moved")),
        ({"token_expires_at": NOW + DAY + DRIFT, "is_reckoned": True}, (7,), None),
        ({"token_expires_at": NOW + 2 * HOUR}, (7,), ("cancelled", "expiry_moved")),
        ({}, (7,), ("reconnected", "renewed")),
        ({"token_expires_at": NOW + DAY}, (), ("cancelled", "notices_off")),
        ({"token_expires_at": NOW}, (7,), ("cancelled", "expired_after_notice")),
        ({"token_expires_at": NOW, "token_revoked_at": NOW}, (), ("cancelled", "broke_after_notice")),
        ({"token_expires_at": NOW + DAY, "connection_status": "DENIED"}, (7,), ("cancelled", "broke_after_notice")),
        ({"token_expires_at": NOW + DAY, "is_oauth": False}, (7,), ("cancelled", "not_oauth")),
    ],
)
def test_a_notice_ends_when_the_date_moves_or_the_member_breaks(
    facts: dict[str, object], days: tuple[int, ...], end: tuple[str, str] | None
) -> None:
    member = MemberFacts(**facts)  # type: ignore[arg-type]
    found = ending(member, expires_at=NOW + DAY, statuses=STATUSES, days=days, now=NOW)
    assert found == (None if end is None else (ReconnectionState(end[0]), end[1]))
