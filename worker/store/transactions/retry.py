"""The transactions of `reconnect retry`."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.database import Database


class RetryStore:
    """Reopens ended reconnections, and resends unknown messages."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reconnections = database.rows.part(Transitions)
        self._notifications = database.rows.part(NotificationTransitions)

    async def reconnections(self, states: Collection[str], members: Collection[str] | None, *, now: datetime) -> int:
        """Reopen the latest ended reconnection of each member, unless another is open; ``attempts`` is set to 0."""
        return await self._database.transaction(
            lambda connection: self._reconnections.reopen(connection, states, members, now)
        )

    async def unknown(self, members: Collection[str] | None, *, now: datetime) -> int:
        """Make `unknown` messages pending again, for users who got no message since."""

        async def work(connection: AsyncConnection) -> int:
            ids = await self._notifications.resend(connection, members, now)
            await self._reconnections.resend(connection, ids)
            return len(ids)

        return await self._database.transaction(work)
