"""PostgreSQL's COPY: many rows, given by the column, as one text."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import psycopg
from psycopg import AsyncCopy
from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.moments import as_text

#: Characters that mean something to COPY.
_MARKS = "\\\t\n\r"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"
#: At most so many texts are remembered for a column.
_REMEMBERED = 10_000


@asynccontextmanager
async def copying(connection: AsyncConnection, table: Table, names: Iterable[str]) -> AsyncIterator[AsyncCopy]:
    """A COPY into these columns of a table for as long as the block lasts; write what :class:`CopyText` makes to it."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    try:
        async with driver.cursor().copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
            yield copy
    except psycopg.Error as error:
        raise DBAPIError("COPY", None, error, hide_parameters=True, connection_invalidated=driver.closed) from None


class CopyText:
    """Turns batches of rows, all with the same columns, into the text that COPY reads."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def of(self, columns: Mapping[str, Sequence[Any]]) -> str:
        """The rows of a batch, given by the column."""
        cells = [self._cells(name, column) for name, column in columns.items()]
        return "\n".join(map("\t".join, zip(*cells, strict=True))) + "\n"

    def _cells(self, name: str, column: Sequence[Any]) -> Iterable[str]:
        """The cells of a column. Nearly all columns hold plain text only, or few values many times."""
        try:
            text = "".join(column)
        except TypeError:  # other values than text
            pass
        else:
            if not any(mark in text for mark in _MARKS):
                return column
        return map(self._known.setdefault(name, _Known()).__getitem__, column)


class _Known(dict[Any, str]):
    """The texts of the values of one column."""

    def __missing__(self, value: Any) -> str:
        cell = _cell(value)
        if len(self) < _REMEMBERED:
            self[value] = cell
        return cell


def _cell(value: Any) -> str:
    if value is None:
        return _NULL
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    return as_text(value) + "+00" if isinstance(value, datetime) else str(value)
