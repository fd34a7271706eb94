"""The owner of ``daily_totals``: how many there were of what, by the day (UTC).

A day is counted once, from the rows, six hours after its end; a row ``day`` says that it was. From then on `status` reads its total and
no longer the rows, so it costs what happened since, and the rows may be deleted: a total stays as it is.

Two moves change what ended on an earlier day, `reopen` and `resend`, and so does a bounce. If that day is counted already, they take it
off the day's total in the same transaction. It is counted again with the day on which it ends anew. The moves `give_back` and `revive`
need not: what they undo ended within the last hour, on a day that is not counted yet.
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

#: A transaction may be committed so long after the moment that it writes.
MARGIN = timedelta(hours=6)
_DAY = timedelta(days=1)
#: The row that says that a day is counted.
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
    """What is counted, and by which of its columns."""

    what: str
    #: When it was; an index serves it.
    at: Any
    where: Any
    state: Any = ""
    outcome: Any = ""
    detail: Any = ""
    #: Rows that were written by hand may have no such moment.
    may_lack: bool = False

    def columns(self) -> list[Any]:
        """State, outcome and detail, as text and never NULL."""
        return [column.label(name) for name, column in self._words()]

    def grouped(self) -> list[Any]:
        """Those of them that differ from row to row."""
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
                # All written out: PostgreSQL groups by what it sees to be the same expression, and two parameters are not.
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
    """So many, by the words of their kind."""

    state: str
    outcome: str
    detail: str
    count: int


class Totals:
    """Its statements, in the transaction of the caller."""

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
        """The end of the last day that is counted; ``None``: none is."""
        day: date | None = await connection.scalar(select(func.max(t.day)).where(t.what == _COUNTED))
        return None if day is None else _begin_of(day) + _DAY

    async def count_a_day(self, connection: AsyncConnection, now: datetime) -> date | None:
        """Count the first day that is over and not counted yet; ``None``: all are. Days on which nothing happened are passed over."""
        over, until = (now - MARGIN).date(), await self.until(connection)
        if until is not None and until > _begin_of(over):
            # That day is not over: it was counted while the database's clock stood ahead, and more of its rows are still to come.
            await connection.execute(delete(daily_totals).where(t.day >= over))
            until = await self.until(connection)
        moments = [
            await (connection.scalar(first) if until is None else connection.scalar(since, {"begin": until}))
            for first, since in self._first
        ]
        known = [moment for moment in moments if moment is not None]
        if not known:
            return None
        day: date = min(known).date()
        if day >= over:
            return None
        # Of two sweeps at once one counts: the other waits here, and finds the day counted.
        if await connection.scalar(self._mark, {"day": day}) is None:
            return day
        begin = _begin_of(day)
        for statement in self._count:
            await connection.execute(statement, {"day": day, "begin": begin, "end": begin + _DAY})
        return day

    async def count_anew(self, connection: AsyncConnection) -> None:
        """For accelerated time: what was on a day is on another one now, so no day is counted."""
        await connection.execute(delete(daily_totals))

    async def uncount_ended(self, connection: AsyncConnection, ids: Collection[int]) -> None:
        """These reconnections, which ended, are about to go on: take them off the days on which they ended."""
        await self._off(connection, ENDED.what, ids)

    async def uncount_told(self, connection: AsyncConnection, ids: Collection[int]) -> None:
        """These notifications, which ended, are about to go on, or to end otherwise: take them off the days on which they ended."""
        await self._off(connection, TOLD.what, ids)

    async def _off(self, connection: AsyncConnection, what: str, ids: Collection[int]) -> None:
        if not ids or (until := await self.until(connection)) is None:
            return
        given = self._rows.encode({"id": id_} for id_ in sorted(ids))
        await connection.execute(self._uncount[what], {"given": given, "until": until})

    async def sums(self, connection: AsyncConnection, source: Source, *, since: datetime | None = None) -> list[Total]:
        """All that there were, or since a moment: the days that are counted, and the rows of the days that are not."""
        until = await self.until(connection)
        key = (t.state, t.outcome, t.detail)
        totals = select(*key, func.sum(t.count)).where(t.what == source.what).group_by(*key)
        # Two queries, since no index serves an OR. Rows without a moment were written by hand.
        fresh = [source.at.is_not(None) if until is None else source.at >= literal(until, Moment())]
        fresh += [source.at.is_(None)] if source.may_lack else []
        if since is not None:
            whole = (since + _DAY).date()
            totals = totals.where(t.day >= whole)
            begin = literal(since, Moment())
            if until is None or until <= since:
                fresh = [source.at > begin]
            else:  # and what is left of its day
                fresh = [
                    source.at >= literal(until, Moment()),
                    and_(source.at > begin, source.at < literal(_begin_of(whole), Moment())),
                ]
        columns = source.columns()
        queries = [totals]
        queries += [
            select(*columns, func.count()).where(source.where, each).group_by(*source.grouped()) for each in fresh
        ]
        found: dict[tuple[str, str, str], int] = {}
        for query in queries:
            for state, outcome, detail, count in await connection.execute(query):
                found[state, outcome, detail] = found.get((state, outcome, detail), 0) + int(count)
        return [Total(*words, count) for words, count in found.items() if count]


def _begin_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _uncounting(rows: Rows, source: Source, table: Any) -> Any:
    given = rows.table("given", {"id": BigInteger()})
    state, outcome, detail = source.columns()
    day = day_of(source.at).label("day")
    off = (
        select(day, state, outcome, detail, func.count().label("number"))
        # Emptied ones too.
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
