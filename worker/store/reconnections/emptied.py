"""Reconnections whose history was deleted. Only the row stays, because its ``reopen_at`` still prevents a new reconnection."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import BigInteger, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections

r = reconnections.c


class Emptied:
    """Its statement, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        given = rows.table("given", {"id": BigInteger()})
        self._mark = (
            update(reconnections)
            .where(rows.among(r.id, select(given.c.id)))
            .values(emptied_at=bindparam("now", type_=Moment()))
        )

    async def mark(self, connection: AsyncConnection, ids: Collection[int], now: datetime) -> None:
        """Not a move: mark these, whose windows, messages and clicks were deleted."""
        if ids:
            given = self._rows.encode({"id": id_} for id_ in sorted(ids))
            await connection.execute(self._mark, {"given": given, "now": now})
