"""What a reconnection waits for after a message about it has ended.

The rules are in :mod:`worker.policy.cadence` and :mod:`worker.policy.notices`; here they are applied to the items of one message.
"""

from collections.abc import Sequence
from datetime import datetime

from worker.policy import notices
from worker.policy.cadence import CadencePosition, follow_up, next_reminder
from worker.policy.recovery import next_check
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.policy.waves import place_of
from worker.settings import Settings
from worker.store.notifications.claimed import NotificationItem
from worker.store.transactions.deliver_results import NextStep


def steps_after(
    waiting: Sequence[NotificationItem],
    *,
    now: datetime,
    settings: Settings,
    told: bool,
    certain: bool = True,
    at: datetime | None = None,
) -> tuple[NextStep, ...]:
    """The next step of each item. ``told``: the user may have got the message. ``certain``: they have.

    ``at``: the message could not reach the user, so its reminder is not used up, and the reconnection is due again at that moment.
    """
    return tuple(_after(item, now=now, settings=settings, told=told, certain=certain, retry_at=at) for item in waiting)


def _after(
    item: NotificationItem, *, now: datetime, settings: Settings, told: bool, certain: bool, retry_at: datetime | None
) -> NextStep:
    position = CadencePosition(item.step, item.base_step)
    counted, uncounted = position.after_one_that_counts(), position.after_one_that_does_not_count()
    following, next_at = counted, _next_message(item, counted, now, settings)
    if retry_at is not None:
        following, next_at = uncounted, retry_at
    elif told and not certain and item.first_notified_at is None:
        # After the last notice ahead of an expiry nothing is planned; the follow-up must come before the expiry.
        follow_up_at = follow_up(now, before=next_at or item.broken_since)
        if follow_up_at is not None:
            following, next_at = uncounted, follow_up_at
    return NextStep(
        reconnection_id=item.reconnection_id,
        state=ReconnectionState.NOTIFIED if told else ReconnectionState.DUE,
        step=following.step,
        base_step=following.base_step,
        next_attempt_at=next_at,
        told=told,
        next_check_at=next_check(0, now) if told and item.reason != Reason.EXPIRES_SOON else None,
    )


def _next_message(
    item: NotificationItem, position: CadencePosition, now: datetime, settings: Settings
) -> datetime | None:
    """When the next message is due; ``None`` after the last notice ahead of an expiry: the expiry or a new date ends it."""
    if item.reason == Reason.EXPIRES_SOON:
        spread_by = place_of(item.member_guid) if item.wave else None
        return notices.next_notice(item.broken_since, settings.expiry_notice_days, told_at=now, place=spread_by)
    return max(next_reminder(item.first_notified_at or now, position.reminder, settings.reminder_days), now)
