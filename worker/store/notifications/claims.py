"""Leases of notifications: who works on which, and since when it may have left."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Float, Integer, and_, bindparam, exists, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.poison import batch_size
from worker.policy.states import Mover, NotificationState, ReconnectionState, check
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
    users,
    windows,
    written,
)

n, r, w, link = notifications.c, reconnections.c, windows.c, notification_reconnections.c

#: Among so many due messages a probe looks for the one with the best prospects.
_CANDIDATES = 200
_N = NotificationState


class NotificationItem(msgspec.Struct, frozen=True, kw_only=True):
    """One broken bank in a message."""

    reconnection_id: int
    #: The reconnection still waits for this message; otherwise the bank is left out of it.
    waiting: bool
    #: Failed attempts since the last message.
    attempts: int
    step: int
    base_step: int
    first_notified_at: datetime | None
    user_guid: str
    member_guid: str
    #: The GUID under which MX answered, and is to be asked again.
    asked_guid: str
    reason: str
    institution_name: str | None
    institution_code: str | None
    broken_since: datetime
    #: It is a notice, and one of so many that they are spread.
    wave: bool = False
    #: Its institution is paused by hand, or held for an outage, since the message was planned.
    held: bool = False
    #: Its user asked for no messages about this member.
    muted: bool = False
    #: Of the window that fetch or deliver stored, encrypted. ``None`` once it was superseded. Not needed where our own link is used.
    locked_uri: str | None
    fetched_at: datetime

    def __repr__(self) -> str:
        return f"NotificationItem({self.reconnection_id})"


class ClaimedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that this worker holds."""

    id: int
    epoch: int
    user_guid: str
    channel: str
    message_key: str
    attempts: int
    step: int
    next_attempt_at: datetime
    items: tuple[NotificationItem, ...]


class NotificationClaims:
    """Leases, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        check("claim", Mover.DELIVER, _N.PENDING, _N.SENDING)
        check("release", Mover.DELIVER, _N.SENDING, _N.PENDING)
        check("recover", Mover.SWEEP, _N.SENDING, _N.PENDING)
        self._rows = rows
        self._lease = _lease_statement(rows)
        self._lease_poison = _lease_statement(rows, poison=True)
        self._lease_chosen = _lease_statement(rows, probe=True)
        self._take_over = _take_over_statement(rows)
        self._load = _load_statement(rows)
        self._mark = _mark_statement(rows)
        self._release = _release_statement(rows)
        self._renew = _renew_statement(rows)

    async def lease(
        self, connection: AsyncConnection, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take up to ``n`` notifications that are due on channels that are not paused."""
        parameters = {"n": n, "worker_id": worker_id, "lease_seconds": lease_seconds, "now": now}
        return await self._taken(connection, self._lease, parameters)

    async def lease_poison(
        self, connection: AsyncConnection, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take notifications whose workers died, those with the fewest deaths first; the more deaths, the fewer at once."""
        fewest = select(func.min(notifications.c.lost_leases)).where(claimable(literal(now, Moment()), poison=True))
        deaths = await connection.scalar(fewest)
        if deaths is None:
            return []
        parameters = {"n": batch_size(n, deaths), "deaths": deaths, "worker_id": worker_id, "now": now}
        return await self._taken(connection, self._lease_poison, parameters | {"lease_seconds": lease_seconds})

    async def candidates(
        self, connection: AsyncConnection, channel: str, now: datetime
    ) -> list[tuple[int, str | None]]:
        """Due notifications of a channel that the breaker stopped, with their users' addresses: those refused before come last."""
        query = (
            select(n.id, users.c.email)
            .outerjoin(users, users.c.user_guid == n.user_guid)
            .where(claimable(literal(now, Moment()), probe=True), n.channel == channel)
            .order_by(n.refusal.is_not(None), n.next_attempt_at, n.id)
            .limit(_CANDIDATES)
        )
        return [(row.id, row.email) for row in await connection.execute(query)]

    async def lease_chosen(
        self, connection: AsyncConnection, chosen: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take this one of the candidates, although the breaker stopped its channel."""
        parameters = {"chosen": chosen, "n": 1, "worker_id": worker_id, "lease_seconds": lease_seconds, "now": now}
        return await self._taken(connection, self._lease_chosen, parameters)

    async def take_over(
        self, connection: AsyncConnection, n: int, *, worker_id: str, lease_seconds: float
    ) -> list[ClaimedNotification]:
        """Take over notifications whose worker is gone after dispatch began: nobody knows whether they arrived."""
        parameters = {"n": n, "worker_id": worker_id, "lease_seconds": lease_seconds}
        return await self._taken(connection, self._take_over, parameters)

    async def _taken(
        self, connection: AsyncConnection, statement: Any, parameters: dict[str, Any]
    ) -> list[ClaimedNotification]:
        ids = (await connection.execute(statement, parameters)).scalars().all()
        if not ids:
            return []
        found: dict[int, list[Any]] = {}
        for row in await connection.execute(self._load, {"given": self._rows.encode({"id": id_} for id_ in ids)}):
            found.setdefault(row.id, []).append(row)
        return [_claimed(rows) for rows in found.values()]

    async def mark_dispatched(self, connection: AsyncConnection, claimed: Sequence[ClaimedNotification]) -> set[int]:
        """Record that dispatch begins; returns those that are still leased. The others must not be sent."""
        return set((await connection.execute(self._mark, {"given": self._fences(claimed)})).scalars())

    async def release(self, connection: AsyncConnection, claimed: Sequence[ClaimedNotification]) -> None:
        """Hand back what did not leave; nothing is counted. A ``dispatched_at`` that was written is taken back."""
        await connection.execute(self._release, {"given": self._fences(claimed)})

    async def renew(
        self, connection: AsyncConnection, claimed: Sequence[ClaimedNotification], *, lease_seconds: float
    ) -> None:
        """Lengthen the leases that are still held."""
        parameters = {"given": self._fences(claimed), "lease_seconds": lease_seconds}
        await connection.execute(self._renew, parameters)

    def _fences(self, claimed: Sequence[ClaimedNotification]) -> str:
        return self._rows.encode({"id": s.id, "epoch": s.epoch} for s in claimed)

    async def recover(self, connection: AsyncConnection, *, resend: bool) -> int:
        """Notifications whose worker is gone wait again if dispatch never began; with ``resend`` the others too."""
        statement = (
            update(notifications)
            .where(
                n.state == written(_N.SENDING),
                n.lease_expires_at < database_now(),
                literal(True) if resend else n.dispatched_at.is_(None),
            )
            .values(
                state=_N.PENDING,
                epoch=n.epoch + 1,
                lost_leases=n.lost_leases + 1,
                lease_worker=None,
                lease_expires_at=None,
                outcome="lease_lost",
                outcome_at=database_now(),
            )
        )
        return int((await connection.execute(statement)).rowcount)

    async def due(self, connection: AsyncConnection, now: datetime, *, at_most: int) -> int:
        """How many could be leased now, counted no further than ``at_most``."""
        found = select(n.id).where(claimable(literal(now, Moment()))).limit(at_most).subquery()
        return int(await connection.scalar(select(func.count()).select_from(found)) or 0)


def claimable(now: Any, *, poison: bool | None = None, probe: bool = False) -> Any:
    """Whether a notification may be leased; ``poison``: whether its workers died (``None``: either way)."""
    prefixes = ("channel:",) if probe else ("channel:", "delivery:")
    scopes = (pauses.c.scope == literal(prefix) + n.channel for prefix in prefixes)
    paused = exists().where(or_(pauses.c.scope == EVERYTHING, *scopes))
    condition = and_(n.state == written("pending"), n.next_attempt_at <= now, ~paused)
    if poison is None:
        return condition
    return and_(condition, n.lost_leases > 0 if poison else n.lost_leases == 0)


def _lease_statement(rows: Rows, *, poison: bool = False, probe: bool = False) -> Any:
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


def _take_over_statement(rows: Rows) -> Any:
    stale = (
        select(n.id)
        .where(
            n.state == written(_N.SENDING),
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


def _load_statement(rows: Rows) -> Any:
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


def _claimed(rows: Sequence[Any]) -> ClaimedNotification:
    first = rows[0]
    return ClaimedNotification(
        id=first.id,
        epoch=first.epoch,
        user_guid=first.user_guid,
        channel=first.channel,
        message_key=first.message_key,
        attempts=first.attempts,
        step=first.message_step,
        next_attempt_at=first.next_attempt_at,
        items=tuple(
            NotificationItem(
                reconnection_id=row.reconnection_id,
                waiting=row.state == ReconnectionState.READY,
                attempts=row.reconnection_attempts,
                step=row.step,
                base_step=row.base_step,
                wave=bool(row.wave),
                first_notified_at=row.first_notified_at,
                user_guid=row.user_guid,
                member_guid=row.member_guid,
                asked_guid=row.moved_to or row.member_guid,
                reason=row.reason,
                institution_name=row.institution_name,
                institution_code=row.institution_code,
                held=bool(row.held),
                muted=bool(row.muted),
                broken_since=row.broken_since,
                locked_uri=row.uri,
                fetched_at=row.fetched_at,
            )
            for row in rows
        ),
    )


def _mark_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})
    return (
        update(notifications)
        .where(
            n.id == given.c.id,
            n.epoch == given.c.epoch,
            n.state == written("sending"),
            n.lease_expires_at > database_now(),
        )
        .values(dispatched_at=database_now())
        .returning(n.id)
    )


def _release_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})
    return (
        update(notifications)
        .where(
            n.id == given.c.id,
            n.epoch == given.c.epoch,
            n.state == written("sending"),
        )
        .values(state=NotificationState.PENDING, lease_worker=None, lease_expires_at=None, dispatched_at=None)
    )


def _renew_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})
    return (
        update(notifications)
        .where(n.id == given.c.id, n.epoch == given.c.epoch, n.state == written("sending"))
        .values(lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())))
    )
