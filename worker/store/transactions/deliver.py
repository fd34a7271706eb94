"""The transactions of the deliver stage."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import Mover
from worker.store.links import Links, NewLink
from worker.store.notifications.claimed import ClaimedNotification
from worker.store.notifications.claims import NotificationClaims
from worker.store.reconnections.transitions import Transitions
from worker.store.refusals import Acceptance, Refusals, RefusalStreak
from worker.store.sql.database import Database
from worker.store.transactions.deliver_results import ClosedReconnection, DeliverSettling, DeliveryResult, Requeued
from worker.store.users import User, UserStore


class DeliverStore:
    """Claims, marks, settles and releases notifications."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users = database.rows.part(UserStore)
        self._claims = database.rows.part(NotificationClaims)
        self._reconnections = database.rows.part(Transitions)
        self._settling = database.rows.part(DeliverSettling)
        self._refusals = database.rows.part(Refusals)
        self._links = database.rows.part(Links)

    async def claim(self, n: int, *, worker_id: str, lease_seconds: float, now: datetime) -> list[ClaimedNotification]:
        """Take up to ``n`` notifications that are due on channels that are not paused."""
        return await self._database.transaction(
            lambda connection: self._claims.lease(
                connection, n, worker_id=worker_id, lease_seconds=lease_seconds, now=now
            )
        )

    async def claim_poison(
        self, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take notifications whose workers died, those with the fewest deaths first; the more deaths, the fewer at once."""
        return await self._database.transaction(
            lambda connection: self._claims.lease_poison(
                connection, n, worker_id=worker_id, lease_seconds=lease_seconds, now=now
            )
        )

    async def claim_probe(
        self, channel: str, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take one due notification of a channel that the breaker paused: the one that is most likely to be accepted."""

        async def work(connection: AsyncConnection) -> list[ClaimedNotification]:
            candidates = await self._claims.candidates(connection, channel, now)
            if not candidates:
                return []
            chosen = await self._refusals.best_prospect(connection, channel, candidates, now)
            return await self._claims.lease_chosen(
                connection, chosen, worker_id=worker_id, lease_seconds=lease_seconds, now=now
            )

        return await self._database.transaction(work)

    async def take_over_abandoned(self, *, worker_id: str, lease_seconds: float, n: int) -> list[ClaimedNotification]:
        """Take over notifications whose worker died after dispatch began: it is unknown whether they arrived."""
        return await self._database.transaction(
            lambda connection: self._claims.take_over(connection, n, worker_id=worker_id, lease_seconds=lease_seconds)
        )

    async def users(self, guids: set[str], *, since: datetime) -> dict[str, User]:
        """The users behind notifications, by GUID, with what they were sent after ``since``."""
        return await self._database.transaction(lambda connection: self._users.load(connection, guids, since=since))

    async def mark_dispatched(self, claimed: Sequence[ClaimedNotification], links: Sequence[NewLink] = ()) -> set[int]:
        """Record that dispatch begins; returns those that are still leased. The others must not be sent.

        ``links``: the links in the messages. They are stored in the same transaction, so that no link is sent that is not stored.
        """

        async def work(connection: AsyncConnection) -> set[int]:
            marked = await self._claims.mark_dispatched(connection, claimed)
            await self._links.store(connection, [link for link in links if link.notification_id in marked])
            return marked

        return await self._database.transaction(work)

    async def settle(self, results: Sequence[DeliveryResult], *, now: datetime, by: Mover = Mover.DELIVER) -> int:
        """Write the results of notifications that are still leased, in one transaction; returns how many were."""
        return await self._database.transaction(lambda connection: self._settling.run(connection, results, now, by=by))

    async def settle_and_assess(
        self, results: Sequence[DeliveryResult], *, now: datetime, probe_after: dict[str, timedelta]
    ) -> list[RefusalStreak]:
        """As :meth:`settle`. If refusals make a streak, pause the channel and undo the streak's effects in the same transaction."""

        async def work(connection: AsyncConnection) -> list[RefusalStreak]:
            await self._settling.run(connection, results, now)
            return await self._refusals.assess(connection, results, now, probe_after=probe_after)

        return await self._database.transaction(work)

    async def is_refused_alone(self, results: Sequence[DeliveryResult], *, now: datetime) -> bool:
        """Whether the channel accepts other messages and these refusals are no streak, so that it need not be paused."""
        return await self._database.transaction(
            lambda connection: self._refusals.is_refused_alone(connection, results, now)
        )

    async def acceptance(self, channels: set[str], now: datetime) -> dict[str, Acceptance]:
        """How each of these channels answered within the last hour."""
        return await self._database.transaction(
            lambda connection: self._refusals.acceptance(connection, sorted(channels), now)
        )

    async def give_back(self, left_out: Sequence[Requeued | ClosedReconnection], *, now: datetime) -> None:
        """Undo attempts that failed because MX failed as a whole, unless the row changed since."""
        failed = [{"id": each.reconnection_id, "outcome": each.outcome, "attempts": each.attempts} for each in left_out]
        await self._database.transaction(lambda connection: self._reconnections.give_back(connection, failed, now))

    async def release(self, claimed: Sequence[ClaimedNotification], *, links: Sequence[NewLink] = ()) -> None:
        """End the leases of messages that did not leave, and delete their links; nothing is counted."""

        async def work(connection: AsyncConnection) -> None:
            await self._claims.release(connection, claimed)
            await self._links.withdraw(connection, [link.token_hash for link in links])

        await self._database.transaction(work)

    async def renew(self, claimed: Sequence[ClaimedNotification], *, lease_seconds: float) -> None:
        """Lengthen the leases that are still held."""
        await self._database.transaction(
            lambda connection: self._claims.renew(connection, claimed, lease_seconds=lease_seconds)
        )

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many notifications could be claimed now, counted no further than ``at_most``."""
        return await self._database.transaction(lambda connection: self._claims.due(connection, now, at_most=at_most))
