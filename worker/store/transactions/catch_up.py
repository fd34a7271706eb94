"""What a sweep would do about a few members, at once: their rows were written just now, by what MX said of them.

It is the visit of a sweep. What this misses, because its process died before it, the next sweep does: the write put these members on the list
of those that changed.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.changes import Changes
from worker.store.consents import Consents
from worker.store.sql.database import Database
from worker.store.transactions.visit import VisitCounts, Visits


class CatchUpStore:
    """Visits members that are named."""

    def __init__(self, database: Database, *, statuses: tuple[str, ...], notice_days: tuple[int, ...] = ()) -> None:
        self._database = database
        self._changes = database.rows.part(Changes)
        self._consents = database.rows.part(Consents)
        self._visits = database.rows.part(Visits, statuses=statuses, notice_days=notice_days)

    async def catch_up(self, member_guids: Collection[str], now: datetime, *, grace_seconds: float) -> tuple[int, int]:
        """Close what is over, and open what is broken; how many reconnections of each."""

        async def work(connection: AsyncConnection) -> VisitCounts:
            # Not earlier than a sweep has decided for: what passed since would be undone, and no sweep would list it again.
            as_of = await self._changes.as_of(connection, now)
            await self._consents.go_on_of(connection, member_guids, as_of)
            return await self._visits.visit(
                connection, sorted(member_guids), as_of, grace=timedelta(seconds=grace_seconds)
            )

        found = await self._database.transaction(work)
        return found.closed, found.opened
