"""Counts of all reconnections and notifications by state and outcome, and the backlog.

- **Ended rows** are counted by ``daily_totals``, plus the rows of days that are not counted yet.
- **Open rows** are counted state by state, each by its own partial index, up to :data:`~worker.store.queries.sampling.EXACT`. If there are
  more, a sample is drawn (:mod:`~worker.store.queries.sampling`), and the counts are marked as estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Table, and_, case, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import LIVE, OPEN
from worker.store.pauses import EVERYTHING, MX, any_paused, holds_channel, holds_institution
from worker.store.queries.sampling import EXACT, Source, sample_of, up_to
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.scans import by_index
from worker.store.sql.tables import notification_reconnections, notifications, reconnections, state_literal
from worker.store.totals import ENDED, TOLD, Totals

r, n, item = reconnections.c, notifications.c, notification_reconnections.c


@dataclass(frozen=True, slots=True)
class Count:
    """The number of rows in one state, with the same last outcome."""

    state: str
    outcome: str | None
    #: They wait for a moment that has not come yet.
    later: bool
    #: They are due, and paused.
    paused: bool
    count: int
    #: The earliest moment for which one of them waits.
    first_at: datetime | None
    #: An attempt on them failed since the last message.
    retried: bool = False
    #: Why they were opened; empty for notifications and for ended rows.
    reason: str = ""
    #: Whether the count is an estimate.
    about: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """All reconnections and all notifications, counted."""

    reconnections: list[Count]
    notifications: list[Count]
    #: The earliest moment at which something is due.
    next_due_at: datetime | None = None
    leases_expired: int = 0
    #: Open reconnections by their reason.
    open_by_reason: dict[str, int] = field(default_factory=dict)

    @property
    def backlog(self) -> dict[str, Any]:
        """How much is due now and later, leased, and to be delivered."""

        def number(counts: Sequence[Count], state: str, **wanted: bool) -> int:
            fits = (c for c in counts if c.state == state and all(getattr(c, k) == v for k, v in wanted.items()))
            return sum(count.count for count in fits)

        return {
            "due_now": number(self.reconnections, "due", later=False),
            "due_later": number(self.reconnections, "due", later=True),
            "retrying": number(self.reconnections, "due", retried=True),
            "leased": number(self.reconnections, "leased"),
            "leases_expired": self.leases_expired,
            "ready": number(self.reconnections, "ready"),
            "next_due_at": self.next_due_at,
            "to_deliver_now": number(self.notifications, "pending", later=False),
            "to_deliver_later": number(self.notifications, "pending", later=True),
            "sending": number(self.notifications, "sending"),
        }

    @property
    def estimated(self) -> list[str]:
        """The names of counts that are estimates, such as ``reconnections.notified``."""
        kinds = (("reconnections", self.reconnections), ("notifications", self.notifications))
        return sorted({f"{kind}.{count.state}" for kind, counts in kinds for count in counts if count.about})


class StandingStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._totals = database.rows.part(Totals)

    async def read(self, now: datetime) -> Standing:
        """The counts of reconnections and notifications. Ended rows include those that were deleted."""

        async def work(connection: AsyncConnection) -> Standing:
            await by_index(connection, self._database.rows)
            opened = await self._live(connection, reconnections, [str(state) for state in OPEN], now)
            live = await self._live(connection, notifications, [str(state) for state in LIVE], now)
            by_reason: dict[str, int] = {}
            for count in opened:
                by_reason[count.reason] = by_reason.get(count.reason, 0) + count.count
            late = and_(r.state == state_literal("leased"), r.lease_expires_at < database_now())
            return Standing(
                opened + [_ended(total) for total in await self._totals.sums(connection, ENDED)],
                live + [_ended(total) for total in await self._totals.sums(connection, TOLD)],
                next_due_at=await connection.scalar(
                    select(func.min(r.next_attempt_at)).where(r.state == state_literal("due"))
                ),
                leases_expired=await up_to(connection, reconnections, late, most=EXACT),
                open_by_reason=by_reason,
            )

        return await self._database.transaction(work)

    async def _live(
        self, connection: AsyncConnection, table: Table, states: Sequence[str], now: datetime
    ) -> list[Count]:
        """The rows that have not ended: counted in the table if they are few, else state by state."""
        is_live = or_(*(table.c.state == state_literal(state) for state in states))
        if table is reconnections:
            is_live = r.closed_at.is_(None)
        all_rows = Source(table)
        if self._database.rows.is_sqlite or await up_to(connection, table, is_live, most=EXACT) <= EXACT:
            return await self._counted(connection, all_rows, now, is_live)
        counts: list[Count] = []
        large_states: list[Any] = []
        for state in states:
            in_state = table.c.state == state_literal(state)
            # `ready` has no index. But ready reconnections are those that a live message names.
            if table is reconnections and state == "ready":
                in_state = and_(in_state, r.id.in_(_named_by_live()))
                few = await up_to(connection, notifications, _is_live(), most=EXACT // 10) <= EXACT // 10
            else:
                few = await up_to(connection, table, in_state, most=EXACT) <= EXACT
            if few:
                counts += await self._counted(connection, all_rows, now, in_state)
            else:
                large_states.append(state)
        if large_states:
            drawn = await sample_of(connection, table)
            of = drawn.rows.c
            counts += await self._counted(
                connection, drawn, now, or_(*(of.state == state_literal(state) for state in large_states))
            )
        return counts

    async def _counted(self, connection: AsyncConnection, source: Source, now: datetime, condition: Any) -> list[Count]:
        c, moment = source.rows.c, literal(now, Moment())
        is_reconnection = "reason" in c
        waiting = c.state == state_literal("due" if is_reconnection else "pending")
        paused = (
            or_(any_paused(EVERYTHING, MX), holds_institution(c.institution_code))
            if is_reconnection
            else holds_channel(c.channel)
        )
        # Only waiting rows are distinguished by whether their moment has come.
        later = case((and_(waiting, c.next_attempt_at > moment), 1), else_=0).label("later")
        held = case((and_(waiting, c.next_attempt_at <= moment, paused), 1), else_=0).label("held")
        retried = case((c.attempts > 0, 1), else_=0).label("retried")
        why = c.reason.label("why") if is_reconnection else state_literal("").label("why")
        columns = (c.state, c.outcome, later, held, retried, why)
        counted = select(*columns, func.count(), func.min(case((waiting, c.next_attempt_at)))).select_from(source.rows)
        grouped = columns if is_reconnection else columns[:-1]
        rows = await connection.execute(counted.where(condition).group_by(*grouped))
        return [
            Count(
                row[0], row[1], bool(row[2]), bool(row[3]), source.scaled(row[6]), row[7],
                retried=bool(row[4]), reason=row[5], about=source.is_sample,
            )
            for row in rows
        ]  # fmt: skip


def _ended(total: Any) -> Count:
    return Count(total.state, total.outcome or None, False, False, total.count, None)


def _is_live() -> Any:
    return or_(n.state == state_literal("pending"), n.state == state_literal("sending"))


def _named_by_live() -> Any:
    return select(item.reconnection_id).join(notifications, n.id == item.notification_id).where(_is_live())
