"""Who is told before a connection breaks, and when?

A notice is a reconnection of a member that is well, whose token has an expiry date. ``EXPIRY_NOTICE_DAYS`` before that date its user
is told that the connection will stop unless they renew it. Example with 14, 3: a token that expires on the 30th has notices on the
16th and on the 27th.

``broken_since`` of a notice is the expiry date, which is in the future. So no answer of MX makes its member "back". Verify checks a notice
only after a click, and only if its date was reckoned from ``consent_days``: then it ends as `reconnected`, because the consent was renewed.
Otherwise a notice ends by the application's row (:func:`ending`):

- It ends as `cancelled` when the member breaks, cannot use OAuth, or ``EXPIRY_NOTICE_DAYS`` is unset.
- If the application moves its own date ahead by more than an hour (:data:`DRIFT`), or empties it, it ends as `reconnected`.
- If a reckoned date moves ahead, it ends as `cancelled`: nothing shows that the customer renewed.
- If a date moves back by more than an hour, it ends as `cancelled`, and the new date may get a notice of its own.

``store/reconnections/notices.py`` has the same rule in SQL; a property test compares the two.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from worker.policy.selection import HEALTHY, MemberFacts, Reason, classify
from worker.policy.states import ReconnectionState
from worker.policy.waves import spread

#: A date that moves by no more than this counts as unchanged: applications recompute it from "expires in so many seconds".
DRIFT = timedelta(hours=1)
#: If the next notice day is less than this away, one notice serves both. Example: the notice of day 3 was deferred by quiet hours
#: until day 2 at 08:00, and there is a day 2 at 18:00.
NOTICES_APART = timedelta(hours=12)


def horizon(now: datetime, days: Sequence[int]) -> datetime:
    """Tokens that expire by then get a notice; ``days`` is ``EXPIRY_NOTICE_DAYS``, the largest first."""
    return now + timedelta(days=days[0]) if days else now


def is_near(member: MemberFacts, *, statuses: Collection[str], days: Sequence[int], now: datetime) -> bool:
    """Whether a member is well, and its token expires within the first of ``days``."""
    date = member.token_expires_at
    if date is None or not now < date <= horizon(now, days) or member.is_oauth is False:
        return False
    if "member_guid" in member.unreadable or "user_guid" in member.unreadable:
        return False
    return member.connection_status in {None, *HEALTHY} and not classify(member, statuses=statuses, now=now).broken


def next_notice(
    expires_at: datetime, days: Sequence[int], *, told_at: datetime, place: float | None = None
) -> datetime | None:
    """When the next notice is due after one at ``told_at``; ``None`` if that was the last.

    ``place``: the member's place in a wave (``policy/waves.py``); ``None``: its notices are not spread.
    """
    dates = [expires_at - timedelta(days=day) for day in days]
    if place is not None:
        dates = [spread(date, until, place) for date, until in zip(dates, [*dates[1:], expires_at], strict=True)]
    return min((date for date in dates if date > told_at + NOTICES_APART), default=None)


def ending(
    member: MemberFacts, *, expires_at: datetime, statuses: Collection[str], days: Sequence[int], now: datetime
) -> tuple[ReconnectionState, str] | None:
    """How the notice for ``expires_at`` ends by the application's row: state and outcome. ``None``: it stays open."""
    selection = classify(member, statuses=statuses, now=now)
    date = member.token_expires_at
    if selection.broken:
        code = "expired_after_notice" if selection.reason is Reason.EXPIRED else "broke_after_notice"
        return ReconnectionState.CANCELLED, code
    if not days:
        return ReconnectionState.CANCELLED, "notices_off"
    if member.is_oauth is False:
        return ReconnectionState.CANCELLED, "not_oauth"
    is_read = "token_expires_at" not in member.unreadable  # an unreadable date does not show that it was moved
    if is_read and (date is None or date > expires_at + DRIFT):
        moved_on = date is not None and member.is_reckoned
        return (ReconnectionState.CANCELLED, "expiry_moved") if moved_on else (ReconnectionState.RECONNECTED, "renewed")
    if date is not None and date < expires_at - DRIFT:
        return ReconnectionState.CANCELLED, "expiry_moved"
    return None
