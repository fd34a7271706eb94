"""Who came back of late, how long it took, and whether a message had prompted it: all of it follows from what is on record."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from sqlalchemy import literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.scans import by_index
from worker.store.sql.tables import reconnections
from worker.store.totals import IS_BACK, RETURNED, Totals

r = reconnections.c

#: How far back is looked, unless told otherwise.
SPAN = timedelta(days=30)
#: Of so many returns, the newest, the median is taken.
NEWEST = 2_000


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
        self._totals = database.rows.part(Totals)

    async def lately(self, now: datetime, *, within: timedelta = SPAN) -> Returns:
        """Who came back within this time before ``now``; whoever renewed ahead of an expiry was never away.

        The counts are those of ``daily_totals`` and of the days that are not counted yet.
        """
        since = now - within

        async def work(connection: AsyncConnection) -> Returns:
            await by_index(connection, self._database.rows)
            counts = {total.detail: total.count for total in await self._totals.sums(connection, RETURNED, since=since)}
            newest = await newest_returns(connection, since)
            return Returns(
                days=within.days,
                reconnected=sum(counts.values()),
                after_a_message=counts.get("after_message", 0),
                median_seconds=median_seconds((back.opened_at, back.closed_at) for back in newest),
                median_seconds_after_message=median_seconds((back.notified_at, back.closed_at) for back in newest),
            )

        return await self._database.transaction(work)


async def newest_returns(connection: AsyncConnection, since: datetime) -> Sequence[Any]:
    """The newest :data:`NEWEST` reconnections that ended ``reconnected`` after ``since``: when they were opened, notified, clicked and closed."""
    moments = (r.opened_at, r.notified_at, r.clicked_at, r.closed_at)
    query = select(*moments).where(IS_BACK, r.closed_at > literal(since, Moment()))
    return (await connection.execute(query.order_by(r.closed_at.desc()).limit(NEWEST))).all()


def median_seconds(spans: Iterable[tuple[datetime | None, datetime]]) -> float | None:
    """Seconds from the first moment to the second, of the one in the middle; of an even number the mean of the two in the middle.

    Left out is what has no first moment, or one that is later. ``None``: nothing is left.
    """
    took = [(second - first).total_seconds() for first, second in spans if first is not None and first <= second]
    return median(took) if took else None
