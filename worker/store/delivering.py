"""What the deliver stage takes from the database and gives back."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.poison import batch_size
from worker.policy.states import NotificationState, ReconnectionState
from worker.store.deliver_settling import (
    ClaimedNotification,
    ClosedReconnection,
    DeliverSettling,
    DeliveryResult,
    NotificationItem,
    Requeued,
)
from worker.store.pauses import EVERYTHING, holds_institution
from worker.store.people import User, UserStore
from worker.store.refusals import Refusals, Streak
from worker.store.sql.database import Database
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


class DeliverStore:
    """Claims, marks, settles and releases notifications."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = rows = database.rows
        self._people = UserStore(rows)
        self._claim = _claim_statement(rows)
        self._claim_poison = _claim_statement(rows, poison=True)
        self._claim_probe = _claim_statement(rows, probe=True)
        self._load = _load_statement(rows)
        self._mark = _mark_statement(rows)
        self._release = _release_statement(rows)
        self._renew = _renew_statement(rows)
        self._give_back = _give_back_statement(rows)
        self._settling = DeliverSettling(rows)
        self._refusals = Refusals(rows)

    async def claim(self, n: int, *, worker_id: str, lease_seconds: float, now: datetime) -> list[ClaimedNotification]:
        """Take up to ``n`` notifications that are due on channels that are not paused."""
        parameters = {"n": n, "worker_id": worker_id, "lease_seconds": lease_seconds, "now": now}

        async def work(connection: AsyncConnection) -> list[ClaimedNotification]:
            taken = (await connection.execute(self._claim, parameters)).scalars().all()
            return await self._sendings(connection, taken) if taken else []

        return await self._database.transaction(work)

    async def claim_poison(
        self, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take notifications whose holders died, the fewer together the more often they did."""
        fewest = select(func.min(notifications.c.lost_leases)).where(_claimable(literal(now, Moment()), poison=True))

        async def work(connection: AsyncConnection) -> list[ClaimedNotification]:
            deaths = await connection.scalar(fewest)
            if deaths is None:
                return []
            parameters = {"n": batch_size(n, deaths), "deaths": deaths, "worker_id": worker_id, "now": now}
            statement = self._claim_poison, parameters | {"lease_seconds": lease_seconds}
            taken = (await connection.execute(*statement)).scalars().all()
            return await self._sendings(connection, taken) if taken else []

        return await self._database.transaction(work)

    async def abandoned(self, *, worker_id: str, lease_seconds: float, n: int) -> list[ClaimedNotification]:
        """Take over notifications whose worker is gone after dispatch began: nobody knows whether they arrived."""
        stale = (
            select(notifications.c.id)
            .where(
                notifications.c.state == written("sending"),
                notifications.c.lease_expires_at < database_now(),
                notifications.c.dispatched_at.is_not(None),
            )
            .limit(n)
            .with_for_update(skip_locked=True)
            .cte("stale")
        )
        statement = (
            update(notifications)
            .where(self._rows.among(notifications.c.id, select(stale.c.id)))
            .values(
                lease_worker=worker_id,
                lease_expires_at=database_now(lease_seconds),
                epoch=notifications.c.epoch + 1,
                lost_leases=notifications.c.lost_leases + 1,
            )
            .returning(notifications.c.id)
        )

        async def work(connection: AsyncConnection) -> list[ClaimedNotification]:
            taken = (await connection.execute(statement)).scalars().all()
            return await self._sendings(connection, taken) if taken else []

        return await self._database.transaction(work)

    async def _sendings(self, connection: AsyncConnection, ids: Sequence[int]) -> list[ClaimedNotification]:
        given = self._rows.encode({"id": id_} for id_ in ids)
        found: dict[int, list[Any]] = {}
        for row in await connection.execute(self._load, {"given": given}):
            found.setdefault(row.id, []).append(row)
        return [_sending_of(rows) for rows in found.values()]

    async def people(self, guids: set[str], *, since: datetime) -> dict[str, User]:
        """The persons behind notifications."""
        return await self._database.transaction(lambda connection: self._people.load(connection, guids, since=since))

    async def mark_dispatched(self, claimed: Sequence[ClaimedNotification]) -> set[int]:
        """Put on record that dispatch begins; returns those of which the lease still holds. The others must not be sent."""
        given = self._rows.encode({"id": s.id, "epoch": s.epoch} for s in claimed)

        async def work(connection: AsyncConnection) -> set[int]:
            return set((await connection.execute(self._mark, {"given": given})).scalars())

        return await self._database.transaction(work)

    async def settle(self, results: Sequence[DeliveryResult], *, now: datetime) -> int:
        """Write the results of notifications that are still held, in one transaction; returns how many were."""
        return await self._database.transaction(lambda connection: self._settling.run(connection, results, now))

    async def give_back(self, left_out: Sequence[Requeued | ClosedReconnection], *, now: datetime) -> None:
        """Undo attempts that turned out to be MX's failure as a whole, unless something else happened since."""
        given = self._rows.encode(
            {"id": left.reconnection_id, "outcome": left.outcome, "attempts": left.attempts} for left in left_out
        )
        parameters = {"given": given, "now": now}
        await self._database.transaction(lambda connection: connection.execute(self._give_back, parameters))

    async def settle_and_assess(
        self, results: Sequence[DeliveryResult], *, now: datetime, probe_after: dict[str, timedelta]
    ) -> list[Streak]:
        """As :meth:`settle`; where refusals make a streak, stop the channel and give back what it cost, in the same transaction."""

        async def work(connection: AsyncConnection) -> list[Streak]:
            await self._settling.run(connection, results, now)
            return await self._refusals.assess(connection, results, now, probe_after=probe_after)

        return await self._database.transaction(work)

    async def is_refused_alone(self, results: Sequence[DeliveryResult], *, now: datetime) -> bool:
        """Whether a channel serves others, and what was refused here is no streak: it need not stand still for that."""
        return await self._database.transaction(
            lambda connection: self._refusals.is_refused_alone(connection, results, now)
        )

    async def claim_probe(
        self, channel: str, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take one due notification of a channel that the breaker stopped: one that has the best prospects."""
        candidates = (
            select(notifications.c.id, users.c.email)
            .outerjoin(users, users.c.user_guid == notifications.c.user_guid)
            .where(_claimable(literal(now, Moment()), probe=True), notifications.c.channel == channel)
            .order_by(notifications.c.refusal.is_not(None), notifications.c.next_attempt_at, notifications.c.id)
            .limit(_CANDIDATES)
        )

        async def work(connection: AsyncConnection) -> list[ClaimedNotification]:
            found = [(row.id, row.email) for row in await connection.execute(candidates)]
            if not found:
                return []
            chosen = await self._refusals.best_prospect(connection, channel, found, now)
            parameters = {"chosen": chosen, "n": 1, "worker_id": worker_id, "lease_seconds": lease_seconds, "now": now}
            taken = (await connection.execute(self._claim_probe, parameters)).scalars().all()
            return await self._sendings(connection, taken) if taken else []

        return await self._database.transaction(work)

    async def release(self, claimed: Sequence[ClaimedNotification]) -> None:
        """Hand back what did not leave, nothing spent. Where "dispatch began" is on record all the same, that was too early."""
        given = self._rows.encode({"id": s.id, "epoch": s.epoch} for s in claimed)
        await self._database.transaction(lambda connection: connection.execute(self._release, {"given": given}))

    async def renew(self, claimed: Sequence[ClaimedNotification], *, lease_seconds: float) -> None:
        """Hold on to what takes long."""
        given = self._rows.encode({"id": s.id, "epoch": s.epoch} for s in claimed)
        parameters = {"given": given, "lease_seconds": lease_seconds}
        await self._database.transaction(lambda connection: connection.execute(self._renew, parameters))

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many notifications could be claimed now, counted no further than ``at_most``."""
        found = select(notifications.c.id).where(_claimable(literal(now, Moment()))).limit(at_most).subquery()

        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(select(func.count()).select_from(found)) or 0)

        return await self._database.transaction(work)


def _claimable(now: Any, *, poison: bool | None = None, probe: bool = False) -> Any:
    prefixes = ("channel:",) if probe else ("channel:", "delivery:")
    scopes = (pauses.c.scope == literal(prefix) + n.channel for prefix in prefixes)
    paused = exists().where(or_(pauses.c.scope == EVERYTHING, *scopes))
    condition = and_(n.state == written("pending"), n.next_attempt_at <= now, ~paused)
    if poison is None:
        return condition
    return and_(condition, n.lost_leases > 0 if poison else n.lost_leases == 0)


def _claim_statement(rows: Rows, *, poison: bool = False, probe: bool = False) -> Any:
    claimable = _claimable(bindparam("now", type_=Moment()), poison=poison, probe=probe)
    if probe:
        claimable = and_(claimable, n.id == bindparam("chosen", type_=BigInteger()))
    if poison:
        claimable = and_(claimable, n.lost_leases == bindparam("deaths", type_=Integer()))
    due = (
        select(n.id)
        .where(claimable)
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
            r.first_notified_at,
            r.member_guid,
            r.moved_to,
            r.reason,
            r.broken_since,
            r.institution_code,
            holds_institution(r.institution_code).label("held"),
            members.c.institution_name,
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


def _sending_of(rows: Sequence[Any]) -> ClaimedNotification:
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
                waiting=row.state == ReconnectionState.READY and row.uri is not None,
                attempts=row.reconnection_attempts,
                step=row.step,
                base_step=row.base_step,
                first_notified_at=row.first_notified_at,
                user_guid=row.user_guid,
                member_guid=row.member_guid,
                asked_guid=row.moved_to or row.member_guid,
                reason=row.reason,
                institution_name=row.institution_name,
                institution_code=row.institution_code,
                held=bool(row.held),
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


def _give_back_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "outcome": Text(), "attempts": Integer()}).c
    other = reconnections.alias("other")
    # Its step is spoken of by the message that it was left out of; one that is due has passed over it already.
    ended = case((r.state == written("exhausted"), 1), else_=0)
    open_again = exists().where(other.c.member_guid == r.member_guid, other.c.closed_at.is_(None), other.c.id != r.id)
    return (
        update(reconnections)
        .where(
            r.id == given.id,
            r.outcome == given.outcome,
            r.attempts == given.attempts,
            r.state.in_((written("due"), written("exhausted"))),
            ~open_again,
        )
        .values(
            state=ReconnectionState.DUE,
            attempts=r.attempts - 1,
            step=r.step + ended,
            base_step=r.base_step + ended,
            next_attempt_at=bindparam("now", type_=Moment()),
            closed_at=None,
            reopen_at=None,
        )
    )
