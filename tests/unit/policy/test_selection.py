"""Which members are picked, why, and since when. The store's tests compare the SQL with this rule."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.selection import MemberFacts, Reason, classify
from worker.settings.values import CONNECTION_STATUSES

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
EARLIER, LATER = NOW - timedelta(days=2), NOW + timedelta(microseconds=1)
STATUSES = ("DENIED", "IMPAIRED", "IMPORTED", "PREVENTED")


@pytest.mark.parametrize(
    ("facts", "reason", "since"),
    [
        ({"token_revoked_at": EARLIER}, Reason.REVOKED, EARLIER),
        # A revocation counts even if its time is in the future: the clock that wrote it may be ahead of ours.
        ({"token_revoked_at": LATER}, Reason.REVOKED, LATER),
        ({"token_expires_at": EARLIER}, Reason.EXPIRED, EARLIER),
        ({"token_expires_at": NOW}, Reason.EXPIRED, NOW),
        ({"error_code": 2004}, Reason.ERROR, None),
        ({"error_code": 2005}, Reason.ERROR, None),
        ({"connection_status": "DENIED"}, Reason.STATUS, None),
        ({"connection_status": "IMPAIRED"}, Reason.STATUS, None),
        ({"connection_status": "IMPORTED"}, Reason.STATUS, None),
        ({"connection_status": "PREVENTED"}, Reason.STATUS, None),
        # A revoked or expired token counts whatever the status is.
        ({"connection_status": "CONNECTED", "token_revoked_at": EARLIER}, Reason.REVOKED, EARLIER),
        ({"connection_status": "CONNECTED", "token_expires_at": NOW}, Reason.EXPIRED, NOW),
    ],
)
@pytest.mark.parametrize("is_oauth", [None, True])
def test_a_broken_member_is_picked_with_its_reason(
    is_oauth: bool | None, facts: dict[str, Any], reason: Reason, since: datetime | None
) -> None:
    selection = classify(MemberFacts(is_oauth=is_oauth, **facts), statuses=STATUSES, now=NOW)
    assert (selection.broken, selection.reason, selection.since) == (True, reason, since)
    assert selection.text.startswith("picked: ")


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"token_expires_at": LATER},
        {"error_code": 0},
        {"error_code": 2003},
        {"connection_status": "CONNECTED"},
        {"connection_status": "EXPIRED"},  # an MFA answer that came too late, not a token
        {"connection_status": "PENDING"},
        {"connection_status": "A_NEW_STATUS"},
        {"connection_status": "denied"},
        {"connection_status": ""},
    ],
)
def test_a_member_that_is_not_broken_is_skipped_and_told_why(facts: dict[str, Any]) -> None:
    selection = classify(MemberFacts(**facts), statuses=STATUSES, now=NOW)
    assert (selection.broken, selection.reason, selection.since) == (False, None, None)
    assert selection.text.startswith("skipped: ")
    assert (facts.get("connection_status") or "unknown") in selection.text


@pytest.mark.parametrize(
    "facts",
    [
        {"token_revoked_at": EARLIER},
        {"token_expires_at": EARLIER},
        {"error_code": 2004},
        {"connection_status": "DENIED"},
    ],
)
def test_a_member_known_to_be_without_oauth_is_never_picked(facts: dict[str, Any]) -> None:
    selection = classify(MemberFacts(is_oauth=False, **facts), statuses=STATUSES, now=NOW)
    assert not selection.broken
    assert "is_oauth is false" in selection.text


def test_of_several_reasons_the_first_counts() -> None:
    facts: dict[str, Any] = {
        "token_revoked_at": EARLIER, "token_expires_at": NOW, "error_code": 2004, "connection_status": "DENIED",
    }  # fmt: skip
    order = []
    while verdict_reason := classify(MemberFacts(**facts), statuses=STATUSES, now=NOW).reason:
        order.append(verdict_reason)
        del facts[next(iter(facts))]
    # The last reason is for members that are not broken yet.
    assert [*order, Reason.EXPIRES_SOON] == list(Reason)
    assert order == [Reason.REVOKED, Reason.EXPIRED, Reason.ERROR, Reason.STATUS]


def test_the_configured_statuses_are_the_ones_that_count() -> None:
    locked, denied = (MemberFacts(connection_status=status) for status in ("LOCKED", "DENIED"))
    assert classify(locked, statuses=("LOCKED",), now=NOW).reason is Reason.STATUS
    assert not classify(denied, statuses=("LOCKED",), now=NOW).broken
    assert not classify(denied, statuses=(), now=NOW).broken


@given(
    is_oauth=st.none() | st.booleans(),
    status=st.none() | st.sampled_from(CONNECTION_STATUSES) | st.text(max_size=20),
    error=st.none() | st.integers(2002, 2007),
    expires=st.none() | st.integers(-3, 3),
    revoked=st.none() | st.integers(-3, 3),
)
def test_a_member_is_picked_just_when_one_of_the_four_holds(
    is_oauth: bool | None, status: str | None, error: int | None, expires: int | None, revoked: int | None
) -> None:
    selection = classify(
        MemberFacts(
            is_oauth=is_oauth,
            connection_status=status,
            error_code=error,
            token_expires_at=None if expires is None else NOW + timedelta(seconds=expires),
            token_revoked_at=None if revoked is None else NOW + timedelta(seconds=revoked),
        ),
        statuses=STATUSES,
        now=NOW,
    )
    holds = (revoked is not None, expires is not None and expires <= 0, error in {2004, 2005}, status in STATUSES)
    assert selection.broken is (is_oauth is not False and any(holds))
    if selection.broken:
        assert selection.reason is list(Reason)[holds.index(True)]
    assert selection.text.startswith("picked: " if selection.broken else "skipped: ")
