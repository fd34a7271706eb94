"""The statements of the leases of notifications (:mod:`~worker.store.notifications.claims`)."""

from typing import Any

from sqlalchemy import BigInteger, Float, Integer, and_, bindparam, exists, literal, or_, select, update

from worker.policy.states import NotificationState
from worker.store.pauses import EVERYTHING, holds_institution
from worker.store.sql.application import is_set
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import (
    members,
    notification_reconnections,
    notifications,
    pauses,
    reconnections,
    state_literal,
    windows,
)

n, r, w, link = notifications.c, reconnections.c, windows.c, notification_reconnections.c
_N = NotificationState


def claimable(now: Any, *, poison: bool | None = None, probe: bool = False) -> Any:
    """Whether a notification may be leased; ``poison``: whether its workers died (``None``: either way)."""
    prefixes = ("channel:",) if probe else ("channel:", "delivery:")
    scopes = (pauses.c.scope == literal(prefix) + n.channel for prefix in prefixes)
    paused = exists().where(or_(pauses.c.scope == EVERYTHING, *scopes))
    condition = and_(n.state == state_literal("pending"), n.next_attempt_at <= now, ~paused)
    if poison is None:
        return condition
    return and_(condition, n.lost_leases > 0 if poison else n.lost_leases == 0)


def lease_statement(rows: Rows, *, poison: bool = False, probe: bool = False) -> Any:
    """Lease due notifications; ``probe``: a chosen one, although the breaker paused its channel. In plain SQL::

    WITH due AS (SELECT id FROM notifications WHERE state = 'pending' AND next_attempt_at <= :now AND … no pause …
                 ORDER BY next_attempt_at, id LIMIT :n FOR UPDATE SKIP LOCKED)
    UPDATE notifications SET state = 'sending', lease_worker = :worker_id, lease_expires_at = now() + :lease_seconds, epoch = epoch + 1
    WHERE id IN (SELECT id FROM due) RETURNING id
    """
    leasable = claimable(bindparam("now", type_=Moment()), poison=poison, probe=probe)
    if probe:
        leasable = and_(leasable, n.id == bindparam("chosen", type_=BigInteger()))
    if poison:
        leasable = and_(leasable, n.lost_leases == bindparam("deaths", type_=Integer()))
    due = (
        select(n.id)
        .where(leasable)
        .order_by(n.next_attempt_at, n.id)
        .limit(bindparam("n", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        update(notifications)
        .where(rows.among(n.id, select(due.c.id)))
        .values(
            state=NotificationState.SENDING,
            lease_worker=bindparam("worker_id"),
            lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())),
            epoch=n.epoch + 1,
            dispatched_at=None,
        )
        .returning(n.id)
    )


def take_over_statement(rows: Rows) -> Any:
    """Lease notifications whose worker died after dispatch began."""
    stale = (
        select(n.id)
        .where(
            n.state == state_literal(_N.SENDING),
            n.lease_expires_at < database_now(),
            n.dispatched_at.is_not(None),
        )
        .limit(bindparam("n", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("stale")
    )
    return (
        update(notifications)
        .where(rows.among(n.id, select(stale.c.id)))
        .values(
            lease_worker=bindparam("worker_id"),
            lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())),
            epoch=n.epoch + 1,
            lost_leases=n.lost_leases + 1,
        )
        .returning(n.id)
    )


def load_statement(rows: Rows) -> Any:
    """Read leased notifications, with a row for each item."""
    given = rows.table("given", {"id": BigInteger()})
    return (
        select(
            n.id,
            n.epoch,
            n.user_guid,
            n.channel,
            n.message_key,
            n.attempts,
            n.step.label("message_step"),
            n.next_attempt_at,
            n.refusal,
            n.outcome_at,
            r.id.label("reconnection_id"),
            r.state,
            r.attempts.label("reconnection_attempts"),
            r.step,
            r.base_step,
            r.wave,
            r.first_notified_at,
            r.member_guid,
            r.moved_to,
            r.reason,
            r.broken_since,
            r.institution_code,
            holds_institution(r.institution_code).label("held"),
            members.c.institution_name,
            is_set(members.c.muted_at).label("muted"),
            w.uri,
            w.fetched_at,
        )
        .join(given, n.id == given.c.id)
        .join(notification_reconnections, link.notification_id == n.id)
        .join(reconnections, r.id == link.reconnection_id)
        .join(windows, w.id == link.window_id)
        .outerjoin(members, members.c.member_guid == r.member_guid)
        .order_by(n.id, r.broken_since, r.id)
    )


def _given_fences(rows: Rows) -> Any:
    return rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})


def _is_still_leased(given: Any) -> Any:
    """Whether a notification is still leased under its epoch: no other worker leased it since, and it is not settled."""
    return and_(n.id == given.c.id, n.epoch == given.c.epoch, n.state == state_literal("sending"))


def mark_statement(rows: Rows) -> Any:
    """Record that dispatch begins, for notifications that are still leased."""
    given = _given_fences(rows)
    return (
        update(notifications)
        .where(_is_still_leased(given), n.lease_expires_at > database_now())
        .values(dispatched_at=database_now())
        .returning(n.id)
    )


def release_statement(rows: Rows) -> Any:
    """End the leases of notifications that did not leave."""
    given = _given_fences(rows)
    return (
        update(notifications)
        .where(_is_still_leased(given))
        .values(state=NotificationState.PENDING, lease_worker=None, lease_expires_at=None, dispatched_at=None)
    )


def renew_statement(rows: Rows) -> Any:
    """Lengthen leases that are still held."""
    given = _given_fences(rows)
    return (
        update(notifications)
        .where(_is_still_leased(given))
        .values(lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())))
    )
