"""The end of reconnections that a sweep finds to be over."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, bindparam, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import NotificationState
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import notification_reconnections, notifications, reconnections, windows, written

n, r, w, link = notifications.c, reconnections.c, windows.c, notification_reconnections.c


class Closing:
    """Its statements, made once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        now = bindparam("now", type_=Moment())
        given = rows.table("given", {"id": BigInteger()})
        self._forget = (
            update(windows)
            .where(w.reconnection_id == given.c.id, w.superseded_at.is_(None))
            .values(superseded_at=now, uri=None)
        )
        behind = select(link.notification_id).join(given, link.reconnection_id == given.c.id)
        others = (
            exists()
            .where(link.notification_id == n.id, link.reconnection_id == r.id, r.state == written("ready"))
            .correlate(notifications)
        )
        self._cancel = (
            update(notifications)
            .where(rows.among(n.id, behind), n.state == written("pending"), ~others)
            .values(state=NotificationState.CANCELLED, outcome="superseded", outcome_at=now)
        )

    async def run(self, connection: AsyncConnection, ending: Any, now: datetime) -> int:
        """End the reconnections of this ``UPDATE``; forget the URIs of their windows, and cancel messages that were about them alone.

        Nobody will be sent there any more, and a message that waits for the morning would hold up the person's next one.
        """
        ids = (await connection.execute(ending.returning(r.id), {"now": now})).scalars().all()
        if ids:
            parameters = {"given": self._rows.encode({"id": id_} for id_ in ids), "now": now}
            await connection.execute(self._forget, parameters)
            await connection.execute(self._cancel, parameters)
        return len(ids)
