"""How many reconnections ended as `reconnected` recently, how long that took, and whether the user had got a message before."""

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

#: The default span of time.
SPAN = timedelta(days=30)
#: The median is that of the newest returns, at most so many.
NEWEST = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Returns:
    """The reconnections that ended as ``reconnected`` within a span of time."""

    days: int
    reconnected: int
    #: Those whose user had got a message before.
    after_a_message: int
    #: The median of seconds from the opening to the end; ``None`` if there is none.
    median_seconds: float | None
    #: The median of seconds from the newest message to the end.
    median_seconds_after_message: float | None


class ReturnStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._totals = database.rows.part(Totals)

    async def lately(self, now: datetime, *, within: timedelta = SPAN) -> Returns:
        """The returns within this time before ``now``. Notices that ended with a renewal do not count.

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
                median_seconds=median_seconds(
                    (reconnection.opened_at, reconnection.closed_at) for reconnection in newest
                ),
                median_seconds_after_message=median_seconds(
                    (reconnection.notified_at, reconnection.closed_at) for reconnection in newest
                ),
            )

        return await self._database.transaction(work)


async def newest_returns(connection: AsyncConnection, since: datetime) -> Sequence[Any]:
    """The newest :data:`NEWEST` reconnections that ended ``reconnected`` after ``since``: when they were opened, notified, clicked and closed."""
    moments = (r.opened_at, r.notified_at, r.clicked_at, r.closed_at)
    query = select(*moments).where(IS_BACK, r.closed_at > literal(since, Moment()))
    return (await connection.execute(query.order_by(r.closed_at.desc()).limit(NEWEST))).all()


def median_seconds(spans: Iterable[tuple[datetime | None, datetime]]) -> float | None:
    """The median of seconds from the first moment of a pair to the second.

    Pairs without a first moment, or with one that is later than the second, are left out. ``None`` if no pair is left.
    """
    seconds = [(second - first).total_seconds() for first, second in spans if first is not None and first <= second]
    return median(seconds) if seconds else None
