"""Visits a few members at once, right after MX's answer was written into their rows.

The visit is that of a sweep. If the process dies before it, the next sweep visits them: the write put them on the list of changed members.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.changes import Changes
from worker.store.consents import Consents
from worker.store.sql.database import Database
from worker.store.transactions.visit import VisitCounts, Visits


class CatchUpStore:
    """Visits given members."""

    def __init__(self, database: Database, *, statuses: tuple[str, ...], notice_days: tuple[int, ...] = ()) -> None:
        self._database = database
        self._changes = database.rows.part(Changes)
        self._consents = database.rows.part(Consents)
        self._visits = database.rows.part(Visits, statuses=statuses, notice_days=notice_days)

    async def catch_up(self, member_guids: Collection[str], now: datetime, *, grace_seconds: float) -> tuple[int, int]:
        """Close reconnections that are over, and open those of broken members; how many of each."""

        async def work(connection: AsyncConnection) -> VisitCounts:
            # Not earlier than the moment up to which a sweep listed members. Otherwise the visit could undo what that sweep did, and no sweep
            # would list those members again.
            as_of = await self._changes.as_of(connection, now)
            await self._consents.go_on_of(connection, member_guids, as_of)
            return await self._visits.visit(
                connection, sorted(member_guids), as_of, grace=timedelta(seconds=grace_seconds)
            )

        counts = await self._database.transaction(work)
        return counts.closed, counts.opened
