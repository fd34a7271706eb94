"""The owner of ``clicks``: each press of a link's button, and how it ended."""

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.rows import Rows
from worker.store.sql.tables import clicks

c = clicks.c


class Clicks:
    """Its statements, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def begin(
        self, connection: AsyncConnection, link_id: int, reconnection_id: int, nonce_hash: str, now: datetime
    ) -> int | None:
        """Record a click; its id, or ``None`` if this load of the page was pressed before."""
        statement = (
            self._rows.insert(clicks)
            .values(link_id=link_id, reconnection_id=reconnection_id, nonce_hash=nonce_hash, clicked_at=now)
            .on_conflict_do_nothing()
            .returning(c.id)
        )
        id_: int | None = await connection.scalar(statement)
        return id_

    async def minted_since(self, connection: AsyncConnection, link_id: int, since: datetime) -> int:
        """For how many clicks on a link MX was asked for a window after ``since``."""
        statement = select(func.count()).where(c.link_id == link_id, c.clicked_at > since, c.minted)
        return int(await connection.scalar(statement) or 0)

    async def finish(self, connection: AsyncConnection, click_id: int, outcome: str, now: datetime) -> None:
        """How it ended, in a short word."""
        await connection.execute(update(clicks).where(c.id == click_id).values(outcome=outcome, answered_at=now))
