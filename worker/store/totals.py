"""The owner of ``daily_totals``: how many reconnections, notifications and clicks there were on each day (UTC).

A day is counted once, from the rows, six hours after its end; a row ``day`` records that. From then on `status` reads the day's total
instead of the rows. So `status` reads only the rows of recent days, and older rows may be deleted: the totals stay.

The moves `reopen` and `resend`, and a bounce, change a row that may have ended on an earlier day. If that day is counted already, they
subtract the row from its total in the same transaction. The row is counted again on the day on which it ends again. The moves `give_back`
and `revive` need not do so: the rows that they change ended within the last hour, on a day that is not counted yet.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Date, and_, bindparam, case, delete, func, literal, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from worker.policy.selection import Reason
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import clicks, daily_totals, notifications, reconnections, state_literal

r, n, c, t = reconnections.c, notifications.c, clicks.c, daily_totals.c

#: A transaction may commit this long after the moment that it writes.
MARGIN = timedelta(hours=6)
_DAY = timedelta(days=1)
#: The ``what`` of the row that records that a day is counted.
_COUNTED = "day"


class day_of(FunctionElement[date]):  # noqa: N801 - reads as the SQL function it is
    """The day (UTC) of a moment of ours; on PostgreSQL in the transactions of :class:`~worker.store.sql.database.Database`, whose zone is UTC."""

    type = Date()
    inherit_cache = True


@compiles(day_of)
def _day_of(element: Any, compiler: Any, **kw: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kw)} AS DATE)"


@compiles(day_of, "sqlite")
def _day_of_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"substr({compiler.process(element.clauses, **kw)}, 1, 10)"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is counted, and the columns by which it is grouped."""

    what: str
    #: The moment that decides its day; it has an index.
    at: Any
    where: Any
    state: Any = ""
    outcome: Any = ""
    detail: Any = ""
    #: Whether rows may lack the moment, because they were written by hand.
    may_lack: bool = False

    def columns(self) -> list[Any]:
        """State, outcome and detail, as text and never NULL."""
        return [column.label(name) for name, column in self._words()]

    def grouped(self) -> list[Any]:
        """Those of :meth:`columns` that differ from row to row."""
        words = {"state": self.state, "outcome": self.outcome, "detail": self.detail}
        return [column for name, column in self._words() if not isinstance(words[name], str)]

    def _words(self) -> Iterator[tuple[str, Any]]:
        for name, value, length in (
            ("state", self.state, 16),
            ("outcome", self.outcome, 64),
            ("detail", self.detail, 32),
        ):
            if isinstance(value, str):
                yield name, state_literal(value)
            else:
                # No parameters: PostgreSQL does not see that two parameters are the same, so it would not see the same expression in GROUP BY.
                text = func.coalesce(value, state_literal(""))
                yield name, func.substr(text, literal_column("1"), literal_column(f"{length}"))


#: The predicates of ``ix_reconnections_ended`` and ``ix_notifications_ended``.
HAS_ENDED = and_(r.closed_at.is_not(None), r.emptied_at.is_(None))
WAS_TOLD = and_(n.state != state_literal("pending"), n.state != state_literal("sending"))
IS_BACK = and_(HAS_ENDED, r.state == state_literal("reconnected"), r.reason != state_literal(Reason.EXPIRES_SOON))

ENDED = Source(what="ended", at=r.closed_at, where=HAS_ENDED, state=r.state, outcome=r.outcome, detail=r.reason)
#: After a message or without one: see ``store/queries/returns.py``.
RETURNED = Source(
    what="returned",
    at=r.closed_at,
    where=IS_BACK,
    detail=case((r.notified_at <= r.closed_at, state_literal("after_message")), else_=state_literal("without_message")),
)
TOLD = Source(
    what="notifications",
    at=n.outcome_at,
    where=WAS_TOLD,
    state=n.state,
    outcome=n.outcome,
    detail=n.channel,
    may_lack=True,
)
OPENED = Source(what="opened", at=r.opened_at, where=r.opened_at.is_not(None), detail=r.reason)
CLICKED = Source(
    what="clicks",
    at=c.clicked_at,
    where=c.clicked_at.is_not(None),
    outcome=func.coalesce(c.outcome, state_literal("under_way")),
)
_SOURCES = (OPENED, ENDED, RETURNED, TOLD, CLICKED)


class Total(msgspec.Struct, frozen=True):
    """A count for one state, outcome and detail."""

    state: str
    outcome: str
    detail: str
    count: int


class Totals:
    """The statements on ``daily_totals``; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        begin, end = bindparam("begin", type_=Moment()), bindparam("end", type_=Moment())
        day = bindparam("day", type_=Date())
        names = ["what", "day", "state", "outcome", "detail", "count"]
        self._mark = (
            rows.insert(daily_totals)
            .values(what=_COUNTED, day=day, state="", outcome="", detail="", count=0)
            .on_conflict_do_nothing()
            .returning(t.day)
        )
        self._count = [
            rows.insert(daily_totals).from_select(
                names,
                select(literal(source.what), day, *source.columns(), func.count())
                .where(source.where, source.at >= begin, source.at < end)
                .group_by(*source.grouped()),
            )
            for source in _SOURCES
        ]
        self._first = [
            (
                select(func.min(source.at)).where(source.where),
                select(func.min(source.at)).where(source.where, source.at >= begin),
            )
            for source in (OPENED, ENDED, TOLD, CLICKED)
        ]
        self._uncount = {
            source.what: _uncounting(rows, source, table)
            for source, table in ((ENDED, reconnections), (TOLD, notifications))
        }

    async def until(self, connection: AsyncConnection) -> datetime | None:
        """The end of the last counted day; ``None`` if no day is counted."""
        day: date | None = await connection.scalar(select(func.max(t.day)).where(t.what == _COUNTED))
        return None if day is None else _begin_of(day) + _DAY

    async def count_a_day(self, connection: AsyncConnection, now: datetime) -> date | None:
        """Count the first day that is over and not counted yet; ``None`` if there is none. Days on which nothing happened are skipped."""
        first_open_day, until = (now - MARGIN).date(), await self.until(connection)
        if until is not None and until > _begin_of(first_open_day):
            # A day that is not over was counted while the database's clock was ahead. It is counted again, since it will have more rows.
            await connection.execute(delete(daily_totals).where(t.day >= first_open_day))
            until = await self.until(connection)
        moments = [
            await (connection.scalar(first) if until is None else connection.scalar(since, {"begin": until}))
            for first, since in self._first
        ]
        known_moments = [moment for moment in moments if moment is not None]
        if not known_moments:
            return None
        day: date = min(known_moments).date()
        if day >= first_open_day:
            return None
        # Of two sweeps at once only one counts the day. The other waits here and then finds it counted.
        if await connection.scalar(self._mark, {"day": day}) is None:
            return day
        begin = _begin_of(day)
        for statement in self._count:
            await connection.execute(statement, {"day": day, "begin": begin, "end": begin + _DAY})
        return day

    async def count_anew(self, connection: AsyncConnection) -> None:
        """Delete all totals, for accelerated time: rows are on other days now."""
        await connection.execute(delete(daily_totals))

    async def uncount_ended(self, connection: AsyncConnection, ids: Collection[int]) -> None:
        """Subtract these reconnections, which are about to be reopened, from the totals of the days on which they ended."""
        await self._subtract(connection, ENDED.what, ids)

    async def uncount_told(self, connection: AsyncConnection, ids: Collection[int]) -> None:
        """Subtract these notifications, whose end is about to change, from the totals of the days on which they ended."""
        await self._subtract(connection, TOLD.what, ids)

    async def _subtract(self, connection: AsyncConnection, what: str, ids: Collection[int]) -> None:
        if not ids or (until := await self.until(connection)) is None:
            return
        given = self._rows.encode({"id": id_} for id_ in sorted(ids))
        await connection.execute(self._uncount[what], {"given": given, "until": until})

    async def sums(self, connection: AsyncConnection, source: Source, *, since: datetime | None = None) -> list[Total]:
        """The counts, in all or since a moment: from the totals, and from the rows of days that are not counted."""
        until = await self.until(connection)
        key = (t.state, t.outcome, t.detail)
        totals = select(*key, func.sum(t.count)).where(t.what == source.what).group_by(*key)
        # Two queries, since no index serves an OR. Rows without a moment were written by hand.
        uncounted = [source.at.is_not(None) if until is None else source.at >= literal(until, Moment())]
        uncounted += [source.at.is_(None)] if source.may_lack else []
        if since is not None:
            first_whole_day = (since + _DAY).date()
            totals = totals.where(t.day >= first_whole_day)
            begin = literal(since, Moment())
            if until is None or until <= since:
                uncounted = [source.at > begin]
            else:  # and the rest of the day of `since`
                uncounted = [
                    source.at >= literal(until, Moment()),
                    and_(source.at > begin, source.at < literal(_begin_of(first_whole_day), Moment())),
                ]
        columns = source.columns()
        queries = [totals]
        queries += [
            select(*columns, func.count()).where(source.where, condition).group_by(*source.grouped())
            for condition in uncounted
        ]
        counts: dict[tuple[str, str, str], int] = {}
        for query in queries:
            for state, outcome, detail, count in await connection.execute(query):
                counts[state, outcome, detail] = counts.get((state, outcome, detail), 0) + int(count)
        return [Total(*words, count) for words, count in counts.items() if count]


def _begin_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _uncounting(rows: Rows, source: Source, table: Any) -> Any:
    given = rows.table("given", {"id": BigInteger()})
    state, outcome, detail = source.columns()
    day = day_of(source.at).label("day")
    off = (
        select(day, state, outcome, detail, func.count().label("number"))
        # Emptied reconnections too.
        .where(
            source.at.is_not(None),
            rows.among(table.c.id, select(given.c.id)),
            source.at < bindparam("until", type_=Moment()),
        )
        .group_by(day_of(source.at), *source.grouped())
        .subquery("off")
    )
    return (
        update(daily_totals)
        .where(t.what == source.what, t.day == off.c.day, t.state == off.c.state)
        .where(t.outcome == off.c.outcome, t.detail == off.c.detail)
        .values(count=t.count - off.c.number)
    )
