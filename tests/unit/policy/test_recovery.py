"""When a member counts as back, and at which growing intervals it is checked."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.recovery import AFTER_CLICK, is_back, is_for_click, is_renewed, next_check
from worker.policy.selection import Reason
from worker.settings import CONNECTION_STATUSES

BROKEN = datetime(2026, 11, 23, 12, tzinfo=UTC)
SINCE, BEFORE = BROKEN + timedelta(seconds=1), BROKEN - timedelta(days=1)


@pytest.mark.parametrize(
    ("status", "aggregating", "aggregated_at", "back"),
    [
        ("CONNECTED", False, SINCE, True),
        # MX may leave out `is_being_aggregated`.
        ("CONNECTED", None, SINCE, True),
        ("CONNECTED", True, SINCE, False),
        ("CONNECTED", False, BEFORE, False),
        ("CONNECTED", False, BROKEN, False),
        ("CONNECTED", False, None, False),
        ("DENIED", False, SINCE, False),
        ("RECONNECTED", False, SINCE, False),
        ("A_NEW_STATUS", False, SINCE, False),
        (None, False, SINCE, False),
    ],
)
@pytest.mark.parametrize("reason", Reason)
def test_back_means_connected_at_rest_and_aggregated_since_the_break(
    reason: Reason, status: str | None, aggregating: bool | None, aggregated_at: datetime | None, back: bool
) -> None:
    assert back is is_back(
        connection_status=status,
        is_being_aggregated=aggregating,
        successfully_aggregated_at=aggregated_at,
        broken_since=BROKEN,
        reason=reason,
        skip_aggregation=False,
    )


@pytest.mark.parametrize("aggregated_at", [None, BEFORE])
@pytest.mark.parametrize(
    ("reason", "back"),
    [
        (Reason.STATUS, True),
        (Reason.ERROR, True),
        # The status was CONNECTED all along, so it proves nothing about a token that was revoked or has expired.
        (Reason.REVOKED, False),
        (Reason.EXPIRED, False),
    ],
)
def test_without_aggregation_the_status_alone_proves_what_the_status_showed(
    reason: Reason, back: bool, aggregated_at: datetime | None
) -> None:
    assert back is is_back(
        connection_status="CONNECTED",
        is_being_aggregated=False,
        successfully_aggregated_at=aggregated_at,
        broken_since=BROKEN,
        reason=str(reason),
        skip_aggregation=True,
    )


@given(
    status=st.none() | st.sampled_from([*CONNECTION_STATUSES, "A_NEW_STATUS"]),
    aggregating=st.none() | st.booleans(),
    offset=st.none() | st.integers(-3, 3),
    reason=st.sampled_from(Reason),
    skip=st.booleans(),
)
def test_nobody_is_back_who_is_not_connected_and_at_rest(
    status: str | None, aggregating: bool | None, offset: int | None, reason: Reason, skip: bool
) -> None:
    at = None if offset is None else BROKEN + timedelta(seconds=offset)
    back = is_back(
        connection_status=status,
        is_being_aggregated=aggregating,
        successfully_aggregated_at=at,
        broken_since=BROKEN,
        reason=reason,
        skip_aggregation=skip,
    )
    if back:
        assert status == "CONNECTED"
        assert not aggregating
        assert skip or (at is not None and at > BROKEN)


def test_looks_grow_rarer_until_there_is_one_a_day() -> None:
    now, waits = BROKEN, [next_check(checks, BROKEN) - BROKEN for checks in range(12)]
    minutes = [wait / timedelta(minutes=1) for wait in waits]
    assert minutes == [1, 2, 5, 10, 20, 40, 60, 120, 240, 480, 1440, 1440]
    assert next_check(10_000, now) == now + timedelta(days=1)


@given(st.integers(0, 5_000))
def test_no_look_comes_sooner_than_mx_allows(checks: int) -> None:
    assert next_check(checks, BROKEN) - BROKEN >= timedelta(seconds=3)
    assert next_check(checks, BROKEN) <= next_check(checks + 1, BROKEN)


@given(
    checks=st.integers(0, 40),
    after=st.timedeltas(timedelta(minutes=-5), timedelta(days=2)),
)
def test_after_a_click_the_member_is_checked_at_each_of_its_moments_and_never_later_than_without_one(
    checks: int, after: timedelta
) -> None:
    clicked_at, now = BROKEN, BROKEN + after
    usual, found = next_check(checks, now), next_check(checks, now, clicked_at=clicked_at)
    assert now < found <= usual
    to_come = [clicked_at + each for each in AFTER_CLICK if clicked_at + each > now]
    assert found == min([usual, *to_come])
    assert next_check(checks, now, clicked_at=None) == usual


def test_the_checks_after_a_click_are_at_20_s_40_s_1_2_5_and_10_minutes_and_then_as_before() -> None:
    now, moments = BROKEN, []
    for _ in range(6):
        now = next_check(9, now, clicked_at=BROKEN)
        moments.append((now - BROKEN).total_seconds())
        assert is_for_click(now, clicked_at=BROKEN)
    assert moments == [20, 40, 60, 120, 300, 600]
    assert next_check(9, now, clicked_at=BROKEN) - now == timedelta(hours=8)
    assert not is_for_click(BROKEN + timedelta(minutes=20), clicked_at=BROKEN)
    assert not is_for_click(BROKEN, clicked_at=None)


@pytest.mark.parametrize(
    ("after", "changed", "renewed"),
    [
        (timedelta(minutes=1), {}, True),
        (timedelta(minutes=15), {}, True),
        (timedelta(minutes=16), {}, False),
        (timedelta(0), {}, False),
        (-timedelta(hours=3), {}, False),
        (timedelta(minutes=1), {"is_being_aggregated": True}, False),
        (timedelta(minutes=1), {"connection_status": "CHALLENGED"}, False),
        (timedelta(minutes=1), {"error_code": 2004}, False),
        (timedelta(minutes=1), {"clicked_at": None}, False),
        (timedelta(minutes=1), {"successfully_aggregated_at": None}, False),
    ],
)
def test_an_aggregation_soon_after_a_click_is_a_renewal(
    after: timedelta, changed: dict[str, Any], renewed: bool
) -> None:
    at = datetime(2026, 11, 20, 12, tzinfo=UTC)
    said: dict[str, Any] = {
        "connection_status": "CONNECTED",
        "is_being_aggregated": False,
        "successfully_aggregated_at": at + after,
        "clicked_at": at,
    }
    assert is_renewed(**(said | changed)) is renewed
