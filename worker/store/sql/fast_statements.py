"""Statements that a user waits for: SQLAlchemy makes their text once, and psycopg alone sends them.

SQLAlchemy adds about as much CPU time to one execution as psycopg needs for it, including the wait for the answer. For a statement about
hundreds of rows that does not matter. On SQLite these statements are executed like all others.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.psycopg import PGDialectAsync_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.rows import Rows


class FastStatement:
    """One statement that returns rows."""

    def __init__(self, rows: Rows, statement: Executable) -> None:
        self._statement = statement
        self._text = ""
        if not rows.is_sqlite:
            compiled: Any = statement.compile(dialect=PGDialectAsync_psycopg())  # type: ignore[attr-defined, no-untyped-call]
            self._text = str(compiled)
            self._constants = {name: bind.value for bind, name in compiled.bind_names.items() if not bind.required}

    async def rows(self, connection: AsyncConnection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """The rows, with columns as attributes. Raises the exceptions that SQLAlchemy raises."""
        if not self._text:
            return (await connection.execute(self._statement, parameters)).all()
        return await send(connection, self._text, {**self._constants, **parameters})

    async def first(self, connection: AsyncConnection, parameters: Mapping[str, Any]) -> Any:
        """Its first row; ``None`` if there is none."""
        rows = await self.rows(connection, parameters)
        return rows[0] if rows else None


async def send(connection: AsyncConnection, text: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
    """Execute SQL in the transaction of a connection to PostgreSQL; the rows, if it returns any."""
    sync: Any = connection.sync_connection
    driver: psycopg.AsyncConnection[Any] = sync.connection.driver_connection
    cursor = driver.cursor(row_factory=namedtuple_row)
    try:
        await cursor.execute(text, parameters)
        return [] if cursor.description is None else await cursor.fetchall()
    except asyncio.CancelledError:
        await connection.invalidate()  # as SQLAlchemy does: a statement may still be running on it
        raise
    except psycopg.Error as error:
        if driver.closed:
            await connection.exec_driver_sql("SELECT 1")  # raises: SQLAlchemy sees it too, and empties its pool
        raise DBAPIError.instance(text, None, error, psycopg.Error, hide_parameters=True) from error
