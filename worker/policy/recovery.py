"""Is an open reconnection over, and how does it end?

Either of two sources can end it:

- **The application's row** is no longer broken (:func:`ending`). If its status is that of a well member, or is empty, the
  reconnection ends as `reconnected`. Otherwise it ends as `cancelled`. Example: the status went from DENIED to CHALLENGED, which
  OAuth does not cure. If the row names another user by now, it ends as `cancelled` too, and a sweep may open another one for that
  user. ``store/selection.py`` and ``store/reconnections/notices.py`` have the same rule in SQL; a test compares them.
- **MX's answer** says three things together (:func:`is_back`): CONNECTED, not being aggregated, and aggregated successfully since the
  break. With ``MX_SKIP_AGGREGATION`` there may be no aggregation after OAuth. Then a member that was picked for its status or error
  code is back once its status is CONNECTED. (Source: MX's description of the connection states.)

If MX says that a member is back, its status is written into ``members`` (``store/members.py``).
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from worker.policy import notices
from worker.policy.selection import ERROR_CODES, HEALTHY, MemberFacts, Reason, classify, is_doubtful
from worker.policy.states import ReconnectionState

#: The interval before each check after a message; then once a day.
_INTERVALS = tuple(timedelta(minutes=m) for m in (1, 2, 5, 10, 20, 40, 60, 120, 240, 480))
_THEREAFTER = timedelta(days=1)
#: How long after a click the member is checked, whatever the interval is.
AFTER_CLICK = (*(timedelta(seconds=s) for s in (20, 40)), *(timedelta(minutes=m) for m in (1, 2, 5, 10)))
#: An aggregation that succeeds within this time after a click counts as a renewal by the customer.
RENEWED_WITHIN = timedelta(minutes=15)
#: When a worker is woken after the end of OAuth: at once, and when a member may be checked once more.
AFTER_OAUTH = (timedelta(0), timedelta(seconds=10))
#: A check within this time after a click counts as caused by the click. The last of these checks may be five minutes late.
FOR_CLICK = AFTER_CLICK[-1] + timedelta(minutes=5)

#: The outcome of a reconnection whose member's row names another user by now.
USER_CHANGED = "user_changed"


def ending(
    facts: MemberFacts | None,
    *,
    reason: str,
    broken_since: datetime,
    is_of_other_user: bool,
    statuses: Collection[str],
    notice_days: Sequence[int],
    now: datetime,
) -> tuple[ReconnectionState, str] | None:
    """How an open reconnection ends by the application's row: state and outcome. ``None``: it stays open.

    ``facts``: ``None`` if the row was deleted. ``is_of_other_user``: the row names another user than the reconnection. ``statuses`` is
    ``RECONNECT_STATUSES``, ``notice_days`` is ``EXPIRY_NOTICE_DAYS``.
    """
    if facts is None:
        return ReconnectionState.GONE, "member_deleted"
    if is_of_other_user:
        return ReconnectionState.CANCELLED, USER_CHANGED
    if reason == Reason.EXPIRES_SOON:
        return notices.ending(facts, expires_at=broken_since, statuses=statuses, days=notice_days, now=now)
    if classify(facts, statuses=statuses, now=now).broken or is_doubtful(facts, picked_for=reason):
        return None
    is_well = facts.connection_status in {None, *HEALTHY}
    return ReconnectionState.RECONNECTED if is_well else ReconnectionState.CANCELLED, "no_longer_broken"


def is_back(
    *,
    connection_status: str | None,
    is_being_aggregated: bool | None,
    successfully_aggregated_at: datetime | None,
    error_code: int | None = None,
    broken_since: datetime,
    reason: str,
    skip_aggregation: bool,
) -> bool:
    """Whether MX's answer about a member means that its reconnection is over."""
    if connection_status != "CONNECTED" or is_being_aggregated or error_code in ERROR_CODES:
        return False
    if successfully_aggregated_at is not None and successfully_aggregated_at > broken_since:
        return True
    return skip_aggregation and reason in {Reason.STATUS, Reason.ERROR}


def is_renewed(
    *,
    connection_status: str | None,
    is_being_aggregated: bool | None,
    successfully_aggregated_at: datetime | None,
    error_code: int | None = None,
    clicked_at: datetime | None,
) -> bool:
    """Whether MX's answer means that a customer renewed a consent that had not run out.

    MX calls such a member CONNECTED all the time. But after OAuth it aggregates at once, so a successful aggregation soon after a click
    is the sign. MX also aggregates each member about once a day. After 1 of 100 clicks that led to no renewal, such an aggregation falls
    into these 15 minutes. Then the notice ends although nothing was renewed, and the user is told when the connection breaks.
    """
    if connection_status != "CONNECTED" or is_being_aggregated or error_code in ERROR_CODES:
        return False
    if clicked_at is None or successfully_aggregated_at is None:
        return False
    return clicked_at < successfully_aggregated_at <= clicked_at + RENEWED_WITHIN


def next_check_for_click(now: datetime, *, clicked_at: datetime | None) -> datetime | None:
    """The next check of a member that is checked only after a click: at the moments of :data:`AFTER_CLICK`. ``None`` after the last.

    These are members of notices, and members whose reconnection is `due`: fetch asks MX about those, unless their user must not be told.
    """
    return next((clicked_at + after for after in AFTER_CLICK if clicked_at + after > now), None) if clicked_at else None


def next_check(checks: int, now: datetime, *, clicked_at: datetime | None = None) -> datetime:
    """When the member is checked next, after so many checks. Example: after 3 checks in 10 minutes, after 10 in a day.

    After a click it is checked at the moments of :data:`AFTER_CLICK` too: 20 s after it, 40 s, 1 min, 2, 5 and 10 min.
    """
    usual = now + (_INTERVALS[checks] if checks < len(_INTERVALS) else _THEREAFTER)
    return min(usual, next_check_for_click(now, clicked_at=clicked_at) or usual)


def is_for_click(now: datetime, *, clicked_at: datetime | None) -> bool:
    """Whether a check at ``now`` follows a click. Such a check does not make the usual interval grow."""
    return clicked_at is not None and now - clicked_at < FOR_CLICK
