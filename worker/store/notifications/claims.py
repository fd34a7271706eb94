"""Leases of notifications, and the record of when dispatch began."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.poison import batch_size
from worker.policy.states import Mover, NotificationState, check
from worker.store.notifications.claim_statements import (
    claimable,
    lease_statement,
    load_statement,
    mark_statement,
    release_statement,
    renew_statement,
    take_over_statement,
)
from worker.store.notifications.claimed import ClaimedNotification, claimed_of
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import (
    notifications,
    state_literal,
    users,
)

n = notifications.c

#: A probe chooses the message that is most likely to be accepted among so many due ones.
_CANDIDATES = 200
_N = NotificationState


class NotificationClaims:
    """Leases, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        check("claim", Mover.DELIVER, _N.PENDING, _N.SENDING)
        check("release", Mover.DELIVER, _N.SENDING, _N.PENDING)
        check("recover", Mover.SWEEP, _N.SENDING, _N.PENDING)
        self._rows = rows
        self._lease = lease_statement(rows)
        self._lease_poison = lease_statement(rows, poison=True)
        self._lease_chosen = lease_statement(rows, probe=True)
        self._take_over = take_over_statement(rows)
        self._load = load_statement(rows)
        self._mark = mark_statement(rows)
        self._release = release_statement(rows)
        self._renew = renew_statement(rows)

    async def lease(
        self, connection: AsyncConnection, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take up to ``n`` notifications that are due on channels that are not paused."""
        parameters = {"n": n, "worker_id": worker_id, "lease_seconds": lease_seconds, "now": now}
        return await self._claimed(connection, self._lease, parameters)

    async def lease_poison(
        self, connection: AsyncConnection, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take notifications whose workers died, those with the fewest deaths first; the more deaths, the fewer at once."""
        fewest = select(func.min(notifications.c.lost_leases)).where(claimable(literal(now, Moment()), poison=True))
        deaths = await connection.scalar(fewest)
        if deaths is None:
            return []
        parameters = {"n": batch_size(n, deaths), "deaths": deaths, "worker_id": worker_id, "now": now}
        return await self._claimed(connection, self._lease_poison, parameters | {"lease_seconds": lease_seconds})

    async def candidates(
        self, connection: AsyncConnection, channel: str, now: datetime
    ) -> list[tuple[int, str | None]]:
        """Due notifications of a channel that the breaker paused, with their users' addresses. Those that were refused come last."""
        query = (
            select(n.id, users.c.email)
            .outerjoin(users, users.c.user_guid == n.user_guid)
            .where(claimable(literal(now, Moment()), probe=True), n.channel == channel)
            .order_by(n.refusal.is_not(None), n.next_attempt_at, n.id)
            .limit(_CANDIDATES)
        )
        return [(row.id, row.email) for row in await connection.execute(query)]

    async def lease_chosen(
        self, connection: AsyncConnection, chosen: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedNotification]:
        """Take this candidate, although the breaker paused its channel."""
        parameters = {"chosen": chosen, "n": 1, "worker_id": worker_id, "lease_seconds": lease_seconds, "now": now}
        return await self._claimed(connection, self._lease_chosen, parameters)

    async def take_over(
        self, connection: AsyncConnection, n: int, *, worker_id: str, lease_seconds: float
    ) -> list[ClaimedNotification]:
        """Take over notifications whose worker died after dispatch began: it is unknown whether they arrived."""
        parameters = {"n": n, "worker_id": worker_id, "lease_seconds": lease_seconds}
        return await self._claimed(connection, self._take_over, parameters)

    async def _claimed(
        self, connection: AsyncConnection, statement: Any, parameters: dict[str, Any]
    ) -> list[ClaimedNotification]:
        ids = (await connection.execute(statement, parameters)).scalars().all()
        if not ids:
            return []
        rows_by_id: dict[int, list[Any]] = {}
        for row in await connection.execute(self._load, {"given": self._rows.encode({"id": id_} for id_ in ids)}):
            rows_by_id.setdefault(row.id, []).append(row)
        return [claimed_of(rows) for rows in rows_by_id.values()]

    async def mark_dispatched(self, connection: AsyncConnection, claimed: Sequence[ClaimedNotification]) -> set[int]:
        """Record that dispatch begins; returns those that are still leased. The others must not be sent."""
        return set((await connection.execute(self._mark, {"given": self._encode_fences(claimed)})).scalars())

    async def release(self, connection: AsyncConnection, claimed: Sequence[ClaimedNotification]) -> None:
        """End the leases of messages that did not leave; nothing is counted. ``dispatched_at`` is cleared."""
        await connection.execute(self._release, {"given": self._encode_fences(claimed)})

    async def renew(
        self, connection: AsyncConnection, claimed: Sequence[ClaimedNotification], *, lease_seconds: float
    ) -> None:
        """Lengthen the leases that are still held."""
        parameters = {"given": self._encode_fences(claimed), "lease_seconds": lease_seconds}
        await connection.execute(self._renew, parameters)

    def _encode_fences(self, claimed: Sequence[ClaimedNotification]) -> str:
        return self._rows.encode({"id": s.id, "epoch": s.epoch} for s in claimed)

    async def recover(self, connection: AsyncConnection, *, resend: bool) -> int:
        """Make notifications pending again whose worker died before dispatch; with ``resend`` also after it."""
        statement = (
            update(notifications)
            .where(
                n.state == state_literal(_N.SENDING),
                n.lease_expires_at < database_now(),
                literal(True) if resend else n.dispatched_at.is_(None),
            )
            .values(
                state=_N.PENDING,
                epoch=n.epoch + 1,
                lost_leases=n.lost_leases + 1,
                lease_worker=None,
                lease_expires_at=None,
                outcome="lease_lost",
                outcome_at=database_now(),
            )
        )
        return int((await connection.execute(statement)).rowcount)

    async def due(self, connection: AsyncConnection, now: datetime, *, at_most: int) -> int:
        """How many notifications could be leased now, counted no further than ``at_most``."""
        due_rows = select(n.id).where(claimable(literal(now, Moment()))).limit(at_most).subquery()
        return int(await connection.scalar(select(func.count()).select_from(due_rows)) or 0)
