"""Is the customer back?

MX says so with three things together: CONNECTED, not being aggregated, and aggregated successfully since the break. Where
aggregation after OAuth is skipped (``MX_SKIP_AGGREGATION``) the third may never come; then a member that was picked for its
status counts as back when that status is CONNECTED. (Source: MX's description of the connection states.)
"""

from datetime import datetime, timedelta

from worker.policy.selection import Reason

#: How long after a message the member is looked at again, look by look; then once a day.
_LOOKS = tuple(timedelta(minutes=m) for m in (1, 2, 5, 10, 20, 40, 60, 120, 240, 480))
_THEREAFTER = timedelta(days=1)


def is_back(
    *,
    connection_status: str | None,
    is_being_aggregated: bool | None,
    successfully_aggregated_at: datetime | None,
    broken_since: datetime,
    reason: str,
    skip_aggregation: bool,
) -> bool:
    """Whether what MX says of a member means that its episode is over."""
    if connection_status != "CONNECTED" or is_being_aggregated:
        return False
    if successfully_aggregated_at is not None and successfully_aggregated_at > broken_since:
        return True
    return skip_aggregation and reason in {Reason.STATUS, Reason.ERROR}


def next_look(checks: int, now: datetime) -> datetime:
    """When to look again after so many looks."""
    return now + (_LOOKS[checks] if checks < len(_LOOKS) else _THEREAFTER)
