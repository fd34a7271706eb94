"""Who came back of late, how long it took, and whether a message had prompted it: all of it follows from what is on record."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.reconnections.notices import IS_NOTICE
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, seconds_between
from worker.store.sql.tables import reconnections, written

r = reconnections.c

#: How far back is looked, unless told otherwise.
SPAN = timedelta(days=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Returns:
    """The reconnections that ended ``reconnected`` within so many days."""

    days: int
    reconnected: int
    #: Those whose user had been told before.
    after_a_message: int
    #: Seconds from the opening to the end, of the one in the middle; ``None`` where there is none.
    median_seconds: float | None
    #: Seconds from the newest message to the end, likewise.
    median_seconds_after_message: float | None


class ReturnStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lately(self, now: datetime, *, within: timedelta = SPAN) -> Returns:
        """Who came back within this time before ``now``; whoever renewed ahead of an expiry was never away."""
        lately = r.closed_at > literal(now - within, Moment())
        back = and_(r.state == written("reconnected"), lately, ~IS_NOTICE)
        prompted = and_(back, r.notified_at <= r.closed_at)
        counts = select(func.count(), func.count(r.notified_at).filter(prompted)).where(back)

        async def work(connection: AsyncConnection) -> Returns:
            reconnected, after_a_message = (await connection.execute(counts)).one()
            return Returns(
                days=within.days,
                reconnected=reconnected,
                after_a_message=after_a_message,
                median_seconds=await connection.scalar(median_until_closed(r.opened_at, back)),
                median_seconds_after_message=await connection.scalar(median_until_closed(r.notified_at, prompted)),
            )

        return await self._database.transaction(work)


def median_until_closed(since: Any, among: Any) -> Any:
    """Seconds from a moment to the end of a reconnection, of the one in the middle.

    Of an even number the mean of the two in the middle. SQLite has no percentiles, so they are counted off.
    """
    took = seconds_between(since, r.closed_at)
    ranked = (
        select(
            took.label("took"),
            func.row_number().over(order_by=took).label("place"),
            func.count().over().label("number"),
        )
        .where(among)
        .subquery()
        .c
    )
    middle = (ranked.place * 2 >= ranked.number) & (ranked.place * 2 <= ranked.number + 2)
    return select(func.avg(ranked.took)).where(middle)
