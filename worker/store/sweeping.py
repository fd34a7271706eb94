"""The steps of a sweep, one set-based statement each, and the record of it in ``sweeps``. Every step may run twice, or in two sweeps at once."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, case, func, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.links import DOUBLE_CLICK, OWED_AFTER
from worker.policy.poison import MOST_DEATHS
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.store.notifications.claims import NotificationClaims
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconnections.claims import ReconnectionClaims
from worker.store.reconnections.clicked import Clicked
from worker.store.reconnections.closing import Closing
from worker.store.reconnections.notices import IS_NOTICE, Notices
from worker.store.reconnections.opening import Opening, open_all
from worker.store.reconnections.spreading import Spreading
from worker.store.reconnections.transitions import Transitions, told_and_due
from worker.store.selection import BROKEN, may_be_broken, reason, standing
from worker.store.sql.database import Database
from worker.store.sql.moments import NEVER, Moment
from worker.store.sql.tables import members, notification_reconnections, reconnections, sweeps, written
from worker.store.windows import Windows

m, r = members.c, reconnections.c
_R = ReconnectionState

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
    #: Reconnections whose next reminder is due, or that are owed a message because a click failed.
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
        self._notices = Notices(database.rows, statuses=statuses, days=notice_days)
        self._spreading = database.rows.part(Spreading)
        self._opening = Opening(database.rows, statuses=statuses)
        self._claims = database.rows.part(ReconnectionClaims)
        self._messages = database.rows.part(NotificationClaims)
        self._transitions = database.rows.part(Transitions)
        self._notifications = database.rows.part(NotificationTransitions)
        self._closing = database.rows.part(Closing)
        self._clicked = database.rows.part(Clicked)
        self._windows = database.rows.part(Windows)
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
        """Take back reconnections from workers that are gone."""
        return await self._database.transaction(self._claims.recover)

    async def recover_unsent(self, *, resend: bool) -> int:
        """Take back notifications whose worker is gone before dispatch began; with ``resend`` the others too."""
        return await self._database.transaction(lambda connection: self._messages.recover(connection, resend=resend))

    async def set_aside(self, now: datetime) -> int:
        """Rows that took their workers down, alone in the end, are not tried again by themselves."""

        async def quarantine(connection: AsyncConnection, state: ReconnectionState, which: ColumnElement[bool]) -> int:
            return await self._closing.close(
                connection,
                r.state == written(state),
                which,
                before=(state,),
                after=(_R.QUARANTINED,),
                state=_R.QUARANTINED,
                outcome="poison",
                reopen_at=NEVER,
                now=now,
            )

        async def work(connection: AsyncConnection) -> int:
            alone = await quarantine(connection, _R.DUE, r.lost_leases >= MOST_DEATHS)
            ids = await self._notifications.give_up(connection, now)
            link = notification_reconnections.c
            if ids:
                behind = select(link.reconnection_id).where(link.notification_id.in_(ids))
                await quarantine(connection, _R.READY, r.id.in_(behind))
            return alone + len(ids)

        return await self._database.transaction(work)

    async def close_ended(self, now: datetime) -> int:
        """Reconnections whose member is no longer broken, or was deleted, end; ended ones no longer stand in the way of a new break."""
        stands = standing(r.member_guid, self._statuses, self._now, picked_for=r.reason)
        gone = stands == str(_R.GONE)
        # The member of a notice is well for as long as the notice goes on.
        over = and_(r.closed_at.is_(None), r.state != written(_R.LEASED), stands != BROKEN, or_(~IS_NOTICE, gone))
        outcome = case((gone, literal("member_deleted")), else_=literal("no_longer_broken"))
        which, ends_in, why = self._notices.over()
        well = stands.in_([str(_R.RECONNECTED), str(_R.CANCELLED)])
        closed = await self._close(over, stands, outcome, now) + await self._close(which, ends_in, why, now)
        await self._database.transaction(
            lambda connection: self._transitions.allow_reopening(connection, well, now),
        )
        return closed

    async def _close(
        self, which: ColumnElement[bool], state: ColumnElement[str], outcome: ColumnElement[str], now: datetime
    ) -> int:
        return await self._database.transaction(
            lambda connection: self._closing.close(
                connection,
                which,
                before=(_R.DUE, _R.READY, _R.NOTIFIED),
                after=(_R.RECONNECTED, _R.CANCELLED, _R.GONE),
                state=state,
                outcome=outcome,
                now=now,
            )
        )

    async def remind(self, now: datetime, *, messages: int) -> tuple[int, int]:
        """Who was told and is not back: due for the next reminder, or given up after ``messages`` messages."""
        due = await self._database.transaction(
            lambda connection: self._transitions.remind(connection, now, messages=messages)
        )
        given_up = await self._database.transaction(
            lambda connection: self._closing.close(
                connection,
                told_and_due(),
                r.step - r.base_step >= messages,
                ~IS_NOTICE,
                before=(_R.NOTIFIED,),
                after=(_R.EXHAUSTED,),
                state=_R.EXHAUSTED,
                outcome="reminders_exhausted",
                reopen_at=NEVER,
                now=now,
            )
        )
        return due, given_up

    async def tell_owed(self, now: datetime) -> int:
        """A click failed an hour ago or earlier, and none was served since: the user is due one message outside the days of the reminders."""
        return await self._database.transaction(
            lambda connection: self._clicked.tell(connection, now - OWED_AFTER, now)
        )

    async def forget_clicked(self, now: datetime) -> int:
        """Forget the URIs that were minted for clicks whose double click is over."""
        return await self._database.transaction(
            lambda connection: self._windows.forget_clicked(connection, now - 2 * DOUBLE_CLICK, now)
        )

    async def open(self, now: datetime, *, grace_seconds: float) -> int:
        """Open a reconnection for every broken member that has none, page by page, so that memory stays flat."""
        parameters: dict[str, object] = {"now": now, "grace": grace_seconds}
        return sum(
            [
                await self._walk(key, candidates, self._opening.opening, parameters)
                for key, candidates in self._opening.walks()
            ]
        )

    async def open_notices(self, now: datetime) -> int:
        """Open a notice for every member whose token runs out soon, if they are asked for at all."""
        if not self._notices.days:
            return 0

        async def spread(connection: AsyncConnection) -> None:
            await self._spreading.spread(connection, self._notices.days, now)

        parameters = self._notices.parameters(now)
        return await self._walk(*self._notices.walk(), self._notices.opening, parameters, then=spread)

    async def _walk(
        self,
        key: list[Any],
        candidates: ColumnElement[bool],
        opening: Callable[[ColumnElement[bool]], Any],
        parameters: dict[str, object],
        *,
        then: Callable[[AsyncConnection], Awaitable[None]] | None = None,
    ) -> int:
        opened, last = 0, None
        while True:
            page = candidates if last is None else and_(candidates, tuple_(*key) > tuple_(*last))
            edge = select(*key).where(page).order_by(*key).limit(1).offset(PAGE - 1)
            end = await self._one(edge, parameters)
            if end is not None:
                page = and_(page, tuple_(*key) <= tuple_(*end))
            opened += await self._open(opening(page), parameters, then)
            if end is None:
                return opened
            last = end

    async def _open(
        self,
        opening: Any,
        parameters: dict[str, object],
        then: Callable[[AsyncConnection], Awaitable[None]] | None,
    ) -> int:
        async def work(connection: AsyncConnection) -> int:
            opened = await open_all(connection, opening, parameters)
            if opened and then is not None:
                await then(connection)
            return opened

        return await self._database.transaction(work)

    async def _one(self, query: Any, parameters: dict[str, Any]) -> Any:
        async def work(connection: AsyncConnection) -> Any:
            row = (await connection.execute(query, parameters)).first()
            return (
                None
                if row is None
                else [literal(value, column.type) for value, column in zip(row, query.selected_columns, strict=True)]
            )

        return await self._database.transaction(work)

    async def would_open(self, now: datetime) -> dict[str, int]:
        """How many reconnections :meth:`open` and :meth:`open_notices` would open now, by reason."""
        why = reason(self._now)
        seen = dict.fromkeys(("token_revoked", "token_expired", "error_code", "connection_status"), 0)
        found = or_(may_be_broken(), m.token_expires_at.is_not(None))
        query = select(why, func.count()).where(found, self._opening.to_open()).group_by(why)

        async def work(connection: AsyncConnection) -> dict[str, int]:
            found = seen | {row[0]: row[1] for row in await connection.execute(query, {"now": now})}
            if self._notices.days:
                notices = await connection.scalar(self._notices.counting(), self._notices.parameters(now))
                found[str(Reason.EXPIRES_SOON)] = int(notices or 0)
            return found

        return await self._database.transaction(work)

    async def would_open_for(self, member_guid: str, now: datetime) -> str | None:
        """Why :meth:`open` or :meth:`open_notices` would open a reconnection for this member now; ``None``: they would not."""
        why = reason(self._now)
        query = select(why).where(m.member_guid == member_guid, self._opening.to_open())

        async def work(connection: AsyncConnection) -> str | None:
            found: str | None = await connection.scalar(query, {"now": now})
            if found is None and self._notices.days:
                counting = self._notices.counting().where(m.member_guid == member_guid)
                if await connection.scalar(counting, self._notices.parameters(now)):
                    return str(Reason.EXPIRES_SOON)
            return found

        return await self._database.transaction(work)
