"""Accelerated time, only for the sandbox and the demonstration: all stored moments are moved into the past.

No stage of the worker calls this. Clocks stay as they are. Example: moments are moved back by three days, so a reminder that was due in
three days is due now.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import Float, Update, case, func, literal, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.database import Database
from worker.store.sql.moments import NEVER, Moment, later, normalised
from worker.store.sql.tables import metadata
from worker.store.totals import Totals


async def set_back(database: Database, by: timedelta) -> None:
    """Move every stored moment back by ``by``, in one transaction. To be called while no worker has anything claimed.

    The columns are taken from the definitions of the tables. ``NEVER`` stays as it is, and so do unique columns (beat's slots) and
    unreadable values. Daily totals are deleted and counted again, since rows are on other days now.
    """
    statements, totals = _statements(by), database.rows.part(Totals)

    async def work(connection: AsyncConnection) -> None:
        await totals.count_anew(connection)
        for statement in statements:
            await connection.execute(statement)

    await database.transaction(work)


def _statements(by: timedelta) -> list[Update]:
    seconds: Any = literal(-by.total_seconds(), Float())
    never = literal(NEVER, Moment())
    statements = []
    for table in metadata.sorted_tables:
        moved = {
            column: case((column >= never, column), else_=func.coalesce(later(normalised(column), seconds), column))
            for column in table.c
            if isinstance(column.type, Moment) and not column.unique
        }
        if moved:
            statements.append(update(table).values(moved))
    return statements
