"""What the deliver stage takes from the database and gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import NotificationState, ReconnectionState
from worker.policy.suspicion import slice_size
from worker.store.database import Database
from worker.store.moments import Moment, database_now
from worker.store.pauses import EVERYTHING
from worker.store.people import People, Person
from worker.store.rows import Rows
from worker.store.tables import (
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One broken bank in a message."""

    reconnection_id: int
    #: The episode still waits for this message; otherwise the bank is left out of it.
    waiting: bool
    step: int
    base_step: int
    first_notified_at: datetime | None
    institution_name: str | None
    institution_code: str | None
    broken_since: datetime
    #: ``None`` once the window was superseded.
    locked_uri: str | None
    fetched_at: datetime

    def __repr__(self) -> str:
        return f"Passage({self.reconnection_id})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sending:
    """A notification that this worker holds."""

    id: int
    epoch: int
    user_guid: str
    channel: str
    message_key: str
    attempts: int
    step: int
    next_attempt_at: datetime
    passages: tuple[Passage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NextRound:
    """How an episode goes on after a message about it came to its end."""

    reconnection_id: int
    state: ReconnectionState
    step: int
    base_step: int
    next_attempt_at: datetime
    #: Whether the customer may now know.
    told: bool = False
    next_check_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """What became of a notification."""

    sending: Sending
    state: NotificationState
    outcome: str
    next_attempt_at: datetime | None = None
    attempts: int = 0
    rounds: tuple[NextRound, ...] = ()
    #: The e-mail address that was refused for good.
    refused_email: str | None = None

    def __repr__(self) -> str:
        return f"Delivered({self.sending.id}, {self.state})"


class DeliverStore:
    """Claims, marks, settles and releases notifications."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = rows = database.rows
        self._people = People(rows)
        self._claim = _claim_statement()
        self._claim_suspects = _claim_statement(suspects=True)
        self._load = _load_statement(rows)
        self._mark = _mark_statement(rows)
        self._release = _release_statement(rows)
        self._renew = _renew_statement(rows)
        self._settling = _Settling(rows)

    async def claim(self, n: int, *, holder: str, lease_seconds: float, now: datetime) -> list[Sending]:
        """Take up to ``n`` notifications that are due on channels that are not paused."""
        parameters = {"n": n, "holder": holder, "lease_seconds": lease_seconds, "now": now}

        async def work(connection: AsyncConnection) -> list[Sending]:
            taken = (await connection.execute(self._claim, parameters)).scalars().all()
            return await self._sendings(connection, taken) if taken else []

        return await self._database.transaction(work)

    async def claim_suspects(self, n: int, *, holder: str, lease_seconds: float, now: datetime) -> list[Sending]:
        """Take notifications whose holders died, the fewer together the more often they did."""
        fewest = select(func.min(notifications.c.lost_leases)).where(_claimable(literal(now, Moment()), suspects=True))

        async def work(connection: AsyncConnection) -> list[Sending]:
            deaths = await connection.scalar(fewest)
            if deaths is None:
                return []
            parameters = {"n": slice_size(n, deaths), "deaths": deaths, "holder": holder, "now": now}
            statement = self._claim_suspects, parameters | {"lease_seconds": lease_seconds}
            taken = (await connection.execute(*statement)).scalars().all()
            return await self._sendings(connection, taken) if taken else []

        return await self._database.transaction(work)

    async def abandoned(self, *, holder: str, lease_seconds: float, n: int) -> list[Sending]:
        """Take over notifications whose holder is gone after dispatch began: nobody knows whether they arrived."""
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
            .where(notifications.c.id.in_(select(stale.c.id)))
            .values(
                lease_holder=holder,
                lease_expires_at=database_now(lease_seconds),
                epoch=notifications.c.epoch + 1,
                lost_leases=notifications.c.lost_leases + 1,
            )
            .returning(notifications.c.id)
        )

        async def work(connection: AsyncConnection) -> list[Sending]:
            taken = (await connection.execute(statement)).scalars().all()
            return await self._sendings(connection, taken) if taken else []

        return await self._database.transaction(work)

    async def _sendings(self, connection: AsyncConnection, ids: Sequence[int]) -> list[Sending]:
        given = self._rows.encode({"id": id_} for id_ in ids)
        found: dict[int, list[Any]] = {}
        for row in await connection.execute(self._load, {"given": given}):
            found.setdefault(row.id, []).append(row)
        return [_sending_of(rows) for rows in found.values()]

    async def people(self, guids: set[str], *, since: datetime) -> dict[str, Person]:
        """The persons behind notifications."""
        return await self._database.transaction(lambda connection: self._people.load(connection, guids, since=since))

    async def mark_dispatched(self, sendings: Sequence[Sending]) -> set[int]:
        """Put on record that dispatch begins; returns those of which the lease still holds. The others must not be sent."""
        given = self._rows.encode({"id": s.id, "epoch": s.epoch} for s in sendings)

        async def work(connection: AsyncConnection) -> set[int]:
            return set((await connection.execute(self._mark, {"given": given})).scalars())

        return await self._database.transaction(work)

    async def settle(self, results: Sequence[Delivered], *, now: datetime) -> int:
        """Write the results of notifications that are still held, in one transaction; returns how many were."""
        return await self._database.transaction(lambda connection: self._settling.run(connection, results, now))

    async def release(self, sendings: Sequence[Sending]) -> None:
        """Hand back what was not dispatched, nothing spent."""
        given = self._rows.encode({"id": s.id, "epoch": s.epoch} for s in sendings)
        await self._database.transaction(lambda connection: connection.execute(self._release, {"given": given}))

    async def renew(self, sendings: Sequence[Sending], *, lease_seconds: float) -> None:
        """Hold on to what takes long."""
        given = self._rows.encode({"id": s.id, "epoch": s.epoch} for s in sendings)
        parameters = {"given": given, "lease_seconds": lease_seconds}
        await self._database.transaction(lambda connection: connection.execute(self._renew, parameters))

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many notifications could be claimed now, counted no further than ``at_most``."""
        found = select(notifications.c.id).where(_claimable(literal(now, Moment()))).limit(at_most).subquery()

        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(select(func.count()).select_from(found)) or 0)

        return await self._database.transaction(work)


def _claimable(now: Any, *, suspects: bool | None = None) -> Any:
    scopes = (pauses.c.scope == literal(prefix) + n.channel for prefix in ("channel:", "delivery:"))
    paused = exists().where(or_(pauses.c.scope == EVERYTHING, *scopes))
    condition = and_(n.state == written("pending"), n.next_attempt_at <= now, ~paused)
    if suspects is None:
        return condition
    return and_(condition, n.lost_leases > 0 if suspects else n.lost_leases == 0)


def _claim_statement(*, suspects: bool = False) -> Any:
    claimable = _claimable(bindparam("now", type_=Moment()), suspects=suspects)
    if suspects:
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
        .where(n.id.in_(select(due.c.id)))
        .values(
            state=NotificationState.SENDING,
            lease_holder=bindparam("holder"),
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
            r.step,
            r.base_step,
            r.first_notified_at,
            r.broken_since,
            r.institution_code,
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


def _sending_of(rows: Sequence[Any]) -> Sending:
    first = rows[0]
    return Sending(
        id=first.id,
        epoch=first.epoch,
        user_guid=first.user_guid,
        channel=first.channel,
        message_key=first.message_key,
        attempts=first.attempts,
        step=first.message_step,
        next_attempt_at=first.next_attempt_at,
        passages=tuple(
            Passage(
                reconnection_id=row.reconnection_id,
                waiting=row.state == ReconnectionState.READY and row.uri is not None,
                step=row.step,
                base_step=row.base_step,
                first_notified_at=row.first_notified_at,
                institution_name=row.institution_name,
                institution_code=row.institution_code,
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
            n.dispatched_at.is_(None),
        )
        .values(state=NotificationState.PENDING, lease_holder=None, lease_expires_at=None)
    )


def _renew_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})
    return (
        update(notifications)
        .where(n.id == given.c.id, n.epoch == given.c.epoch, n.state == written("sending"))
        .values(lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())))
    )


class _Settling:
    """The end of a delivery: the message's own state, and how the episodes behind it go on."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        now = bindparam("now", type_=Moment())
        result = rows.table(
            "given",
            {
                "id": BigInteger(),
                "epoch": BigInteger(),
                "state": Text(),
                "outcome": Text(),
                "next_attempt_at": Moment(),
                "attempts": Integer(),
                "sent_at": Moment(),
            },
        ).c
        self._finish = (
            update(notifications)
            .where(n.id == result.id, n.epoch == result.epoch, n.state == written("sending"))
            .values(
                state=result.state,
                outcome=result.outcome,
                outcome_at=now,
                next_attempt_at=result.next_attempt_at,
                attempts=result.attempts,
                sent_at=result.sent_at,
                lease_holder=None,
                lease_expires_at=None,
                lost_leases=0,
            )
            .returning(n.id)
        )
        onward = rows.table(
            "given",
            {
                "id": BigInteger(),
                "state": Text(),
                "step": Integer(),
                "base_step": Integer(),
                "next_attempt_at": Moment(),
                "notified_at": Moment(),
                "next_check_at": Moment(),
            },
        ).c
        self._onward = (
            update(reconnections)
            .where(r.id == onward.id, r.state == written("ready"))
            .values(
                state=onward.state,
                step=onward.step,
                base_step=onward.base_step,
                next_attempt_at=onward.next_attempt_at,
                next_check_at=onward.next_check_at,
                notified_at=func.coalesce(onward.notified_at, r.notified_at),
                first_notified_at=func.coalesce(r.first_notified_at, onward.notified_at),
                attempts=0,
            )
        )
        refused = rows.table("given", {"user_guid": Text(), "email": Text()}).c
        self._refuse = (
            update(users)
            .where(users.c.user_guid == refused.user_guid, users.c.email == refused.email)
            .values(refused_email=refused.email)
        )

    async def run(self, connection: AsyncConnection, results: Sequence[Delivered], now: datetime) -> int:
        """Write what is still ours to write."""

        async def execute(statement: Any, given: Sequence[dict[str, Any]]) -> Any:
            parameters = {"given": self._rows.encode(given), "now": now}
            return await connection.execute(statement, parameters) if given else ()

        spoken = (NotificationState.SENT, NotificationState.UNKNOWN)
        finished = {
            row.id
            for row in await execute(
                self._finish,
                [
                    {
                        "id": d.sending.id,
                        "epoch": d.sending.epoch,
                        "state": d.state,
                        "outcome": d.outcome,
                        "next_attempt_at": d.next_attempt_at,
                        "attempts": d.attempts,
                        "sent_at": now if d.state in spoken else None,
                    }
                    for d in sorted(results, key=lambda d: d.sending.id)
                ],
            )
        }
        ours = [d for d in results if d.sending.id in finished]
        await execute(
            self._onward,
            [
                {
                    "id": go.reconnection_id,
                    "state": go.state,
                    "step": go.step,
                    "base_step": go.base_step,
                    "next_attempt_at": go.next_attempt_at,
                    "notified_at": now if go.told else None,
                    "next_check_at": go.next_check_at,
                }
                for d in ours
                for go in d.rounds
            ],
        )
        await execute(
            self._refuse,
            [{"user_guid": d.sending.user_guid, "email": d.refused_email} for d in ours if d.refused_email],
        )
        return len(finished)
