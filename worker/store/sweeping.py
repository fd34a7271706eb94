"""What a sweep does to the database, one set-based statement a step. Every one may run twice, or in two sweeps at once."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Text,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.poison import MOST_DEATHS
from worker.policy.selection import Reason
from worker.policy.states import NotificationState, ReconnectionState
from worker.store.closing import Closing
from worker.store.noticing import IS_NOTICE, Noticing
from worker.store.selection import BROKEN, is_broken, may_be_broken, reason, since, standing
from worker.store.sql.application import plain_text
from worker.store.sql.database import Database
from worker.store.sql.moments import NEVER, Moment, database_now, has_passed, later, normalised
from worker.store.sql.tables import (
    members,
    notification_reconnections,
    notifications,
    reconnections,
    sweeps,
    written,
)

m, r, n = members.c, reconnections.c, notifications.c

#: Members looked at in one statement: keeps transactions short, and a sweep of millions flat.
PAGE = 10_000


@dataclass(kw_only=True)
class SweepReport:
    """What one sweep did."""

    #: Reconnections, notices ahead of an expiry among them.
    opened: int = 0
    #: Leases and sendings taken back from workers that are gone.
    recovered: int = 0
    #: Reconnections that ended because their member is no longer broken, or is gone.
    closed: int = 0
    #: Reconnections whose next reminder is due.
    reminded: int = 0
    #: Reconnections given up after the last reminder.
    exhausted: int = 0
    #: Tasks put into the queues.
    woken: dict[str, int] = field(default_factory=dict)

    @property
    def did_something(self) -> bool:
        return any((self.opened, self.recovered, self.closed, self.reminded, self.exhausted))

    @property
    def summary(self) -> str:
        """In one short line: ``opened 12, woke fetch 1``, or ``nothing to do``."""
        names = ("opened", "recovered", "closed", "reminded", "exhausted")
        words = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name)]
        words += [f"woke {stage} {tasks}" for stage, tasks in self.woken.items()]
        return ", ".join(words) or "nothing to do"


class SweepStore:
    """The steps of a sweep."""

    def __init__(self, database: Database, *, statuses: Collection[str], notice_days: Sequence[int] = ()) -> None:
        self._database = database
        self._statuses = statuses
        self._noticing = Noticing(database.rows, statuses=statuses, days=notice_days)
        self._closing = Closing(database.rows)
        self._now: ColumnElement[datetime] = bindparam("now", type_=Moment())

    async def _count(self, statement: Any, **parameters: object) -> int:
        async def work(connection: AsyncConnection) -> int:
            # SQLAlchemy does not keep an INSERT's row count unless it is told to.
            counted = statement.execution_options(preserve_rowcount=True)
            return int((await connection.execute(counted, parameters)).rowcount)

        return await self._database.transaction(work)

    async def begin(self, slot: datetime | None, now: datetime) -> int | None:
        """Put a sweep on record; ``None`` if its slot is taken, as by the other of two beats.

        Slots that lie ahead were taken while the database's clock stood ahead. They are free again: else each of them would be
        "swept already" when its time comes, and nothing would be swept for as long as the clock was wrong.
        """
        statement = self._database.rows.insert(sweeps).values(slot=slot, started_at=now).on_conflict_do_nothing()
        ahead = sweeps.c.slot > bindparam("ahead", now + timedelta(minutes=1), type_=Moment())

        async def work(connection: AsyncConnection) -> int | None:
            await connection.execute(update(sweeps).where(ahead).values(slot=None))
            id_ = await connection.scalar(statement.returning(sweeps.c.id))
            return int(id_) if id_ is not None else None

        return await self._database.transaction(work)

    async def finish(self, id_: int, report: SweepReport, now: datetime) -> None:
        """Put on record what it did."""
        figures = {**asdict(report), "woken": sum(report.woken.values())}
        await self._count(update(sweeps).where(sweeps.c.id == id_).values(finished_at=now, **figures))

    async def recover_leases(self) -> int:
        """Reconnections whose worker let the lease run out are due again; the epoch keeps the worker from coming back late."""
        statement = (
            update(reconnections)
            .where(r.state == written("leased"), r.lease_expires_at < database_now())
            .values(
                state=ReconnectionState.DUE,
                epoch=r.epoch + 1,
                lost_leases=r.lost_leases + 1,
                lease_worker=None,
                lease_expires_at=None,
                outcome="lease_lost",
                outcome_at=database_now(),
            )
        )
        return await self._count(statement)

    async def set_aside(self, now: datetime) -> int:
        """Rows that took their workers down, alone in the end, are not tried again by themselves."""
        quarantined = update(reconnections).values(
            state=ReconnectionState.QUARANTINED,
            closed_at=self._now,
            reopen_at=NEVER,
            outcome="poison",
            outcome_at=self._now,
        )
        poison = quarantined.where(r.state == written("due"), r.lost_leases >= MOST_DEATHS)
        unsendable = (
            update(notifications)
            .where(n.state == written("pending"), n.lost_leases >= MOST_DEATHS)
            .values(state=NotificationState.FAILED, outcome="poison", outcome_at=self._now)
            .returning(n.id)
        )

        async def work(connection: AsyncConnection) -> int:
            alone = await self._closing.run(connection, poison, now)
            ids = (await connection.execute(unsendable, {"now": now})).scalars().all()
            link = notification_reconnections.c
            behind = select(link.reconnection_id).where(link.notification_id.in_(ids))
            if ids:
                await self._closing.run(
                    connection, quarantined.where(r.id.in_(behind), r.state == written("ready")), now
                )
            return alone + len(ids)

        return await self._database.transaction(work)

    async def recover_unsent(self, *, resend: bool) -> int:
        """Notifications whose worker is gone wait again if dispatch never began, or if doubles are wanted rather than gaps."""
        statement = (
            update(notifications)
            .where(
                n.state == written("sending"),
                n.lease_expires_at < database_now(),
                literal(True) if resend else n.dispatched_at.is_(None),
            )
            .values(
                state=NotificationState.PENDING,
                epoch=n.epoch + 1,
                lost_leases=n.lost_leases + 1,
                lease_worker=None,
                lease_expires_at=None,
                outcome="lease_lost",
                outcome_at=database_now(),
            )
        )
        return await self._count(statement)

    async def close_ended(self, now: datetime) -> int:
        """Reconnections whose member is no longer broken, or was deleted, end; ended ones no longer stand in the way of a new break."""
        stands = standing(r.member_guid, self._statuses, self._now, picked_for=r.reason)
        gone = stands == str(ReconnectionState.GONE)
        ended = (
            update(reconnections)
            # The member of a notice is well for as long as the notice goes on.
            .where(r.closed_at.is_(None), r.state != written("leased"), stands != BROKEN, or_(~IS_NOTICE, gone))
            .values(
                state=stands,
                closed_at=self._now,
                outcome=case((gone, literal("member_deleted")), else_=literal("no_longer_broken")),
                outcome_at=self._now,
            )
        )
        well = stands.in_([str(ReconnectionState.RECONNECTED), str(ReconnectionState.CANCELLED)])
        forgotten = update(reconnections).where(r.reopen_at.is_not(None), well).values(reopen_at=None)
        closed = await self._close(ended, now) + await self._close(self._noticing.ending(), now)
        await self._count(forgotten, now=now)
        return closed

    async def _close(self, ending: Any, now: datetime) -> int:
        return await self._database.transaction(lambda connection: self._closing.run(connection, ending, now))

    async def remind(self, now: datetime, *, messages: int) -> tuple[int, int]:
        """Who was told and is not back: due for the next reminder, or given up after ``messages`` messages.

        Notices have rounds of their own: where there is a next one it has a date, and they end with what they speak of.
        """
        waiting = and_(r.state == written("notified"), r.next_attempt_at <= self._now)
        due = (
            update(reconnections)
            .where(waiting, or_(r.step - r.base_step < messages, IS_NOTICE))
            .values(state=ReconnectionState.DUE, attempts=0)
        )
        given_up = (
            update(reconnections)
            .where(waiting, r.step - r.base_step >= messages, ~IS_NOTICE)
            .values(
                state=ReconnectionState.EXHAUSTED,
                closed_at=self._now,
                reopen_at=NEVER,
                outcome="reminders_exhausted",
                outcome_at=self._now,
            )
        )
        return await self._count(due, now=now), await self._close(given_up, now)

    async def open(self, now: datetime, *, grace_seconds: float) -> int:
        """Open a reconnection for every broken member that has none, page by page, so that memory stays flat."""
        parameters: dict[str, object] = {"now": now, "grace": grace_seconds}
        return sum([await self._walk(key, candidates, self._opening, parameters) for key, candidates in self._walks()])

    async def open_notices(self, now: datetime) -> int:
        """Open a notice for every member whose token runs out soon, if they are asked for at all."""
        if not self._noticing.days:
            return 0
        return await self._walk(*self._noticing.walk(), self._noticing.opening, self._noticing.parameters(now))

    async def _walk(
        self,
        key: list[Any],
        candidates: ColumnElement[bool],
        opening: Callable[[ColumnElement[bool]], Any],
        parameters: dict[str, object],
    ) -> int:
        opened, last = 0, None
        while True:
            page = candidates if last is None else and_(candidates, tuple_(*key) > tuple_(*last))
            edge = select(*key).where(page).order_by(*key).limit(1).offset(PAGE - 1)
            end = await self._one(edge, parameters)
            if end is not None:
                page = and_(page, tuple_(*key) <= tuple_(*end))
            opened += await self._count(opening(page), **parameters)
            if end is None:
                return opened
            last = end

    async def _one(self, query: Any, parameters: dict[str, Any]) -> Any:
        async def work(connection: AsyncConnection) -> Any:
            row = (await connection.execute(query, parameters)).first()
            return (
                None
                if row is None
                else [literal(value, column.type) for value, column in zip(row, query.selected_columns, strict=True)]
            )

        return await self._database.transaction(work)

    def _walks(self) -> list[tuple[list[Any], ColumnElement[bool]]]:
        """Two walks, each along an index: by status, revocation or error, and by date of expiry."""
        expired = and_(m.token_expires_at.is_not(None), has_passed(m.token_expires_at, self._now))
        # As it is stored, unread: an application's own form of a moment must compare with itself.
        date = type_coerce(m.token_expires_at, Text() if self._database.rows.is_sqlite else Moment())
        return [([m.member_guid], may_be_broken()), ([date, m.member_guid], expired)]

    def _to_open(self) -> ColumnElement[bool]:
        """Broken, and neither in hand nor at rest after a reconnection that ended without success. A newer date is a new break."""
        revoked_at, never = normalised(m.token_revoked_at), literal(NEVER, Moment())
        newer = or_(
            and_(revoked_at > r.closed_at, revoked_at < never),
            and_(normalised(m.token_expires_at) > r.closed_at, has_passed(m.token_expires_at, self._now)),
        )
        at_rest = and_(r.reopen_at > self._now, ~func.coalesce(newer, false()), ~IS_NOTICE)
        in_the_way = exists().where(r.member_guid == m.member_guid, or_(r.closed_at.is_(None), at_rest))
        return and_(is_broken(self._statuses, self._now), ~in_the_way)

    def _opening(self, page: ColumnElement[bool]) -> Any:
        known = since(self._now)
        broken_since = case((and_(known.is_not(None), known < self._now), known), else_=self._now)
        speak_at = later(broken_since, bindparam("grace", type_=Float()))
        values = {
            "member_guid": m.member_guid,
            "user_guid": m.user_guid,
            "institution_code": plain_text(m.institution_code),
            "state": literal(str(ReconnectionState.DUE)),
            "reason": reason(self._now),
            "broken_since": broken_since,
            "opened_at": self._now,
            "next_attempt_at": case((speak_at > self._now, speak_at), else_=self._now),
        }
        return (
            self._database.rows.insert(reconnections)
            .from_select(list(values), select(*values.values()).where(page, self._to_open()))
            .on_conflict_do_nothing()
        )

    async def would_open(self, now: datetime) -> dict[str, int]:
        """How many reconnections :meth:`open` and :meth:`open_notices` would open now, by reason."""
        why = reason(self._now)
        seen = dict.fromkeys(("token_revoked", "token_expired", "error_code", "connection_status"), 0)
        found = or_(may_be_broken(), m.token_expires_at.is_not(None))
        query = select(why, func.count()).where(found, self._to_open()).group_by(why)

        async def work(connection: AsyncConnection) -> dict[str, int]:
            found = seen | {row[0]: row[1] for row in await connection.execute(query, {"now": now})}
            if self._noticing.days:
                notices = await connection.scalar(self._noticing.counting(), self._noticing.parameters(now))
                found[str(Reason.EXPIRES_SOON)] = int(notices or 0)
            return found

        return await self._database.transaction(work)

    async def would_open_for(self, member_guid: str, now: datetime) -> str | None:
        """Why :meth:`open` or :meth:`open_notices` would open a reconnection for this member now; ``None``: they would not."""
        why = reason(self._now)
        query = select(why).where(m.member_guid == member_guid, self._to_open())

        async def work(connection: AsyncConnection) -> str | None:
            found: str | None = await connection.scalar(query, {"now": now})
            if found is None and self._noticing.days:
                counting = self._noticing.counting().where(m.member_guid == member_guid)
                if await connection.scalar(counting, self._noticing.parameters(now)):
                    return str(Reason.EXPIRES_SOON)
            return found

        return await self._database.transaction(work)
