"""Settings for queries for which PostgreSQL would otherwise read whole tables."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.rows import Rows


async def by_index(connection: AsyncConnection, rows: Rows) -> None:
    """For the rest of the transaction, make PostgreSQL use an index instead of reading a whole table.

    It estimates that reading a whole table is cheaper than some ten thousand rows by an index. That holds for rows on a disk. Measured with
    22,000 of a million rows: 490 ms for the table, 40 ms by the index.
    """
    if not rows.is_sqlite:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
