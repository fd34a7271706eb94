"""The transactions of the fetch stage. Claims have a lease, and results are written only under the same epoch."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.reconnections.claims import ClaimedReconnection, ReconnectionClaims
from worker.store.sql.database import Database
from worker.store.transactions.fetch_results import FetchSettling, UserResult
from worker.store.users import User, UserStore


class FetchStore:
    """Claims, settles and releases reconnections."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users = database.rows.part(UserStore)
        self._claims = database.rows.part(ReconnectionClaims)
        self._settling = database.rows.part(FetchSettling)

    async def claim(
        self, n: int, *, worker_id: str, lease_seconds: float, now: datetime, soon: datetime, probe: bool = False
    ) -> list[ClaimedReconnection]:
        """Take up to ``n`` due reconnections, and with each the user's others that are due by ``soon``.

        ``probe``: although requests to MX are paused.
        """

        async def work(connection: AsyncConnection) -> list[ClaimedReconnection]:
            return await self._claims.lease(
                connection, n, worker_id=worker_id, lease_seconds=lease_seconds, now=now, soon=soon, probe=probe
            )

        return await self._database.transaction(work)

    async def claim_poison(
        self, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedReconnection]:
        """Take rows whose workers died, those with the fewest deaths first; the more deaths, the fewer at once."""

        async def work(connection: AsyncConnection) -> list[ClaimedReconnection]:
            return await self._claims.lease_poison(
                connection, n, worker_id=worker_id, lease_seconds=lease_seconds, now=now
            )

        return await self._database.transaction(work)

    async def users(self, guids: set[str], *, since: datetime) -> dict[str, User]:
        """The users behind claims, by GUID, with what they were sent after ``since``."""
        return await self._database.transaction(lambda connection: self._users.load(connection, guids, since=since))

    async def settle(self, results: Sequence[UserResult], *, now: datetime) -> int:
        """Write the results of claims that are still leased, in one transaction; results of other claims are discarded.

        If another message to the user is under way by now, no second one is queued: the reconnections are due again in 10 minutes.
        Returns how many messages are to be delivered.
        """
        return await self._database.transaction(lambda connection: self._settling.run(connection, results, now))

    async def release(self, claims: Sequence[ClaimedReconnection]) -> None:
        """End leases at once; nothing is counted."""
        await self._database.transaction(lambda connection: self._claims.release(connection, claims))

    async def renew(self, claims: Sequence[ClaimedReconnection], *, lease_seconds: float) -> None:
        """Lengthen the leases that are still held."""
        await self._database.transaction(
            lambda connection: self._claims.renew(connection, claims, lease_seconds=lease_seconds)
        )

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many reconnections could be claimed now, counted no further than ``at_most``."""
        return await self._database.transaction(lambda connection: self._claims.due(connection, now, at_most=at_most))
