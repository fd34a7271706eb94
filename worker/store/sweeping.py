"""The steps of a sweep, mostly one set-based statement each, and its row in ``sweeps``. Each step may run twice, or in two sweeps at once."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.links import DOUBLE_CLICK, OWED_AFTER
from worker.policy.notices import horizon
from worker.policy.poison import MOST_DEATHS
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.store.changes import FIRST_ENTRY, Changes, Entry
from worker.store.notifications.claims import NotificationClaims
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconciling import Reconciling, rule_of
from worker.store.reconnections.claims import ReconnectionClaims
from worker.store.reconnections.clicked import Clicked
from worker.store.reconnections.closing import Closing
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.reconnections.transitions import Transitions, told_and_due
from worker.store.selection import may_matter, reason
from worker.store.sql.database import Database
from worker.store.sql.moments import NEVER, Moment
from worker.store.sql.tables import members, notification_reconnections, reconnections, state_literal, sweeps
from worker.store.sql.triggers import EVERYTHING
from worker.store.transactions.visit import VisitCounts, Visits
from worker.store.windows import Windows

m, r = members.c, reconnections.c
_R = ReconnectionState

#: Members visited in one transaction. It keeps transactions short, and memory flat in a sweep of millions.
PAGE = 10_000
#: Seconds that a sweep spends on a reconciliation: on the daily one, and on any other. At least one page is done.
SECONDS_FOR, SECONDS = {"daily": 0.5}, 5.0


@dataclass(kw_only=True)
class SweepReport:
    """What one sweep did."""

    #: Reconnections, notices ahead of an expiry among them.
    opened: int = 0
    #: Leases of reconnections and notifications taken back from workers that are gone.
    recovered: int = 0
    #: Reconnections that ended because their member is no longer broken, or is gone.
    closed: int = 0
    #: Reconnections whose next reminder is due, or whose user is owed a message because a click failed.
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
        """The report in one short line: ``opened 12, woke fetch 1``, or ``nothing to do``."""
        names = ("opened", "recovered", "closed", "reminded", "exhausted")
        words = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name)]
        words += [f"woke {stage} {tasks}" for stage, tasks in self.woken.items()]
        return ", ".join(words) or "nothing to do"


class SweepStore:
    """The steps of a sweep."""

    def __init__(self, database: Database, *, statuses: tuple[str, ...], notice_days: tuple[int, ...] = ()) -> None:
        self._database = database
        self._days = notice_days
        self._rule = rule_of(statuses, notice_days)
        self._visits = database.rows.part(Visits, statuses=statuses, notice_days=notice_days)
        self._notices, self._opening = self._visits.notices, self._visits.opening
        self._changes = database.rows.part(Changes)
        self._reconciling = database.rows.part(Reconciling)
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
        """Insert a sweep; ``None`` if its slot is taken, for example by a second beat.

        Slots in the future were taken while the database's clock was ahead. They are freed: otherwise each would count as taken when its
        time comes, and no sweep would run for as long as the clock had been ahead.
        """
        statement = self._database.rows.insert(sweeps).values(slot=slot, started_at=now).on_conflict_do_nothing()
        ahead = sweeps.c.slot > bindparam("ahead", now + timedelta(minutes=1), type_=Moment())

        async def work(connection: AsyncConnection) -> int | None:
            await connection.execute(update(sweeps).where(ahead).values(slot=None))
            id_ = await connection.scalar(statement.returning(sweeps.c.id))
            return int(id_) if id_ is not None else None

        return await self._database.transaction(work)

    async def finish(self, id_: int, report: SweepReport, now: datetime) -> None:
        """Store what the sweep did."""
        figures = {**asdict(report), "woken": sum(report.woken.values())}
        await self._count(update(sweeps).where(sweeps.c.id == id_).values(finished_at=now, **figures))

    async def recover_leases(self) -> int:
        """Take back reconnections from workers that are gone."""
        return await self._database.transaction(self._claims.recover)

    async def recover_unsent(self, *, resend: bool) -> int:
        """Take back notifications whose worker died before dispatch; with ``resend`` also those whose worker died after it."""
        return await self._database.transaction(lambda connection: self._messages.recover(connection, resend=resend))

    async def set_aside(self, now: datetime) -> int:
        """Quarantine rows whose workers died too often (:data:`MOST_DEATHS`); they are not tried again by themselves."""

        async def quarantine(
            connection: AsyncConnection, state: ReconnectionState, condition: ColumnElement[bool]
        ) -> int:
            return await self._closing.close(
                connection,
                r.state == state_literal(state),
                condition,
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

    async def begin_visits(self, now: datetime) -> None:
        """List members that fell due since the last sweep, and begin a reconciliation if it is time to."""
        ahead = horizon(now, self._days) if self._days else None

        async def work(connection: AsyncConnection) -> None:
            await self._changes.list_due(connection, now, ahead)
            await self._reconciling.begin(connection, self._rule, now, everything=False)

        await self._database.transaction(work)

    async def visit_changed(self, now: datetime, *, grace: timedelta) -> VisitCounts:
        """Visit every member that is listed, page by page, so that memory stays flat."""
        counts, last = VisitCounts(), FIRST_ENTRY
        while True:
            entries, visited = await self._database.transaction(partial(self._visit_page, last, now, grace))
            counts += visited
            if len(entries) < PAGE:
                return counts
            last = entries[-1]

    async def _visit_page(
        self, after: Entry, now: datetime, grace: timedelta, connection: AsyncConnection
    ) -> tuple[Sequence[Entry], VisitCounts]:
        entries = await self._changes.take(connection, after, n=PAGE)
        if not entries:
            return entries, VisitCounts()
        guids = list(dict.fromkeys(guid for guid, _ in entries))
        if guids[0] == EVERYTHING:
            await self._reconciling.begin(connection, self._rule, now, everything=True)
            del guids[0]
        as_of = await self._changes.as_of(connection, now)
        before = await self._changes.open_of(connection, guids)
        counts = await self._visits.visit(connection, guids, as_of, grace=grace)
        passed_over = await self._changes.passed_over(connection, before)
        await self._changes.strike(connection, [entry for entry in entries if entry[0] not in passed_over])
        return entries, counts

    async def reconcile(self, now: datetime, *, grace: timedelta) -> VisitCounts:
        """Continue a reconciliation that is under way, for a part of the sweep's time."""
        counts, began = VisitCounts(), time.monotonic()
        while True:
            page = await self._database.transaction(
                lambda connection: self._reconciling.page(connection, self._visits, now, n=PAGE, grace=grace)
            )
            if page is None:
                return counts
            counts += page.counts
            if time.monotonic() - began > SECONDS_FOR.get(page.reason, SECONDS):
                return counts

    async def remind(self, now: datetime, *, messages: int) -> tuple[int, int]:
        """Make users who were told and are not back due for the next reminder, or give them up after ``messages`` messages; how many of each."""
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
        """Make a message due for each user whose click failed an hour ago or earlier, if no click was served since; returns how many."""
        return await self._database.transaction(
            lambda connection: self._clicked.tell(connection, now - OWED_AFTER, now)
        )

    async def forget_clicked(self, now: datetime) -> int:
        """Delete the URIs that were minted for clicks more than two minutes ago; a double click can no longer use them."""
        return await self._database.transaction(
            lambda connection: self._windows.forget_clicked(connection, now - 2 * DOUBLE_CLICK, now)
        )

    async def would_open(self, now: datetime) -> dict[str, int]:
        """How many reconnections a visit to all members would open now, by reason."""
        why = reason(self._now)
        zeros = dict.fromkeys(("token_revoked", "token_expired", "error_code", "connection_status"), 0)
        query = select(why, func.count()).where(may_matter(), self._opening.to_open()).group_by(why)

        async def work(connection: AsyncConnection) -> dict[str, int]:
            counts = zeros | {row[0]: row[1] for row in await connection.execute(query, {"now": now})}
            if self._notices.days:
                notices = await connection.scalar(self._notices.counting(), self._notices.parameters(now))
                counts[str(Reason.EXPIRES_SOON)] = int(notices or 0)
            return counts

        return await self._database.transaction(work)

    async def would_open_for(self, member_guid: str, now: datetime) -> str | None:
        """Why a visit would open a reconnection for this member now; ``None``: it would not."""
        why = reason(self._now)
        query = select(why).where(m.member_guid == member_guid, self._opening.to_open())

        async def work(connection: AsyncConnection) -> str | None:
            why_broken: str | None = await connection.scalar(query, {"now": now})
            if why_broken is None and self._notices.days:
                counting = self._notices.counting().where(m.member_guid == member_guid)
                if await connection.scalar(counting, self._notices.parameters(now)):
                    return str(Reason.EXPIRES_SOON)
            return why_broken

        return await self._database.transaction(work)
