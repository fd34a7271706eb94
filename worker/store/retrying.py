"""What `reconnect retry` puts back."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import case, exists, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import NotificationState, ReconnectionState
from worker.store.sql.database import Database
from worker.store.sql.tables import notification_reconnections, notifications, reconnections

r, n = reconnections.c, notifications.c


class RetryStore:
    """Reopens what was given up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _count(self, statement: Any) -> int:
        async def work(connection: AsyncConnection) -> int:
            return int((await connection.execute(statement)).rowcount)

        return await self._database.transaction(work)

    async def reconnections(self, states: Collection[str], members: Collection[str] | None, *, now: datetime) -> int:
        """Reopen the latest ended reconnection of each member, unless another is open; its attempts start anew."""
        other = reconnections.alias("other")
        overtaken = exists().where(other.c.member_guid == r.member_guid, other.c.id > r.id)
        statement = (
            update(reconnections)
            .where(r.state.in_(states), r.member_guid.in_(members) if members else true(), ~overtaken)
            .values(
                state=ReconnectionState.DUE,
                closed_at=None,
                reopen_at=None,
                next_attempt_at=now,
                attempts=0,
                lost_leases=0,
                # The cadence starts anew; the steps spoken stay spoken, and so does one whose message was over before it was sent.
                step=r.step + 1,
                base_step=r.step + 1,
                first_notified_at=None,
                outcome="requeued",
                outcome_at=now,
            )
        )
        return await self._count(statement)

    async def unknown(self, members: Collection[str] | None, *, now: datetime) -> int:
        """Send again what may or may not have arrived, to users to whom nothing was written since."""
        link, newer = notification_reconnections.c, notifications.alias("newer")
        about = select(link.notification_id).join(reconnections, r.id == link.reconnection_id)
        theirs = n.id.in_(about.where(r.member_guid.in_(members))) if members else true()
        overtaken = exists().where(newer.c.user_guid == n.user_guid, newer.c.id > n.id)
        again = (
            update(notifications)
            .where(n.state == NotificationState.UNKNOWN, theirs, ~overtaken)
            .values(
                state=NotificationState.PENDING, next_attempt_at=now, attempts=0, epoch=n.epoch + 1, outcome="requeued"
            )
            .returning(n.id)
        )

        async def work(connection: AsyncConnection) -> int:
            ids = (await connection.execute(again)).scalars().all()
            behind = select(link.reconnection_id).where(link.notification_id.in_(ids))
            await connection.execute(
                update(reconnections)
                .where(r.id.in_(behind), r.state == ReconnectionState.NOTIFIED)
                # The message is sent once more, so its step is counted once: the reminder after it keeps its day. Where another
                # first message was to follow, none has been counted yet.
                .values(
                    state=ReconnectionState.READY,
                    base_step=case((r.step > r.base_step, r.base_step + 1), else_=r.base_step),
                )
            )
            return len(ids)

        return await self._database.transaction(work)
