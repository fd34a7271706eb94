"""How PostgreSQL reads, where its own choice costs what exists and not what is asked for."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.rows import Rows


async def by_index(connection: AsyncConnection, rows: Rows) -> None:
    """For the rest of the transaction: PostgreSQL reads no table from end to end where an index has the rows.

    It takes the reading of a whole table for cheaper than some ten thousand rows by an index, which is true of rows on a disk. Measured with
    22,000 of a million: 490 ms for the table, 40 ms by the index.
    """
    if not rows.is_sqlite:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
