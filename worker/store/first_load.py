"""The first import: all rows are loaded first, and the indexes are built afterwards.

To build an index from sorted keys once costs PostgreSQL much less than to add a million keys in random order. So if there are no members
yet, a whole file is loaded without indexes, and then the indexes are built. Users are loaded the same way if the table is empty and no key
comes twice. Otherwise they are staged and merged as in any import, and devices always are. Each table has a connection and a transaction of
its own, so that the tables are filled in parallel. The transaction of ``members`` commits last, so that a visible member has its user.

A loaded table is locked until the import ends, because it must not be read without its indexes. The import waits at most a second for a
lock. If something prevents it (a lock, rows in the table, a key that comes twice, missing rights, an application's foreign key), all of it
is rolled back, and the rows are imported in the ordinary way.

Why there are two ways: CPU seconds for a million new rows, client and server, on two busy cores (an import may take five times COPY):

    COPY into a bare table    2.5
    this way                 12.7      5 times COPY
    the ordinary way         55.7     22 times COPY
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain, islice
from typing import Any

from psycopg import AsyncCopy
from sqlalchemy import Table, exists, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import AddConstraint, CreateIndex, DropConstraint, DropIndex

from worker.store.copying import CopyText, copying
from worker.store.importing import KEYS, Columns, latest_of, names_of, numbered, staged, upserting
from worker.store.sql.database import Database
from worker.store.sql.rows import Rows
from worker.store.sql.tables import devices, members, users

#: Rows of one batch: as many as fit into a socket buffer, so that PostgreSQL works while the next batch is read.
SLICE = 1_000
#: Batches that are read before the way of importing users is chosen. A file with fewer is imported in the ordinary way.
_AHEAD = 20

#: How long to wait for a lock, and the memory to sort in: with its default of 4 MB PostgreSQL would sort on disk.
_SETTINGS = {"lock_timeout": "1s", "maintenance_work_mem": "128MB", "work_mem": "128MB", "jit": "off"}


class _InTheWay(Exception):  # noqa: N818 - no error: there is the ordinary way
    """The rows cannot be loaded this way, or the table has rows already."""


async def first_load(database: Database, slices: Iterable[Columns]) -> bool:
    """Write all batches of a file, of :data:`SLICE` rows each. Returns whether it was possible; if not, nothing is written."""
    if database.rows.is_sqlite:
        return False
    rest = iter(slices)
    ahead = list(islice(rest, _AHEAD))
    if len(ahead) < _AHEAD:
        return False
    try:
        await _load(database, ahead, rest)
    except (DBAPIError, _InTheWay):
        return False
    return True


async def _load(database: Database, ahead: Sequence[Columns], rest: Iterable[Columns]) -> None:
    async with AsyncExitStack() as transactions:
        loads = []
        for table in (members, devices, users):  # committed in the opposite order
            if set(KEYS[table]) <= ahead[0].keys():
                connection = await transactions.enter_async_context(database.engine.begin())
                loads.append(await _begun(connection, table, ahead, database.rows))
        async with AsyncExitStack() as copies:
            for load in loads:
                await copies.enter_async_context(load.copying())
            for columns in chain(ahead, rest):
                if columns.keys() != ahead[0].keys():
                    raise _InTheWay
                await _run_all(load.write(columns) for load in loads)
        await _run_all(load.finish() for load in loads)


async def _run_all(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all jobs in parallel and wait for each, so that no transaction is rolled back while a job still uses it."""
    for error in await asyncio.gather(*jobs, return_exceptions=True):
        if error is not None:
            raise error


async def _begun(connection: AsyncConnection, table: Table, ahead: Sequence[Columns], rows: Rows) -> "_Load":
    """Begin to fill a table: without its indexes, or through a staged table."""
    for name, value in _SETTINGS.items():
        await connection.execute(text(f"SET LOCAL {name} = '{value}'"))
    names = names_of(table, ahead[0])
    if table is not devices and not _comes_twice(table, ahead):
        await connection.execute(text(f"LOCK TABLE {table.name} IN ACCESS EXCLUSIVE MODE"))
        if not await connection.scalar(select(exists().select_from(table))):
            await connection.execute(DropConstraint(table.primary_key))
            for index in table.indexes:
                await connection.execute(DropIndex(index))
            return _Load(connection, table, names)
    if table is members:
        raise _InTheWay
    return _Merge(connection, table, names, rows, await staged(connection, names))


def _comes_twice(table: Table, ahead: Iterable[Columns]) -> bool:
    """Whether a key of the table comes twice, so that its rows cannot be loaded as they are."""
    keys = [key for columns in ahead for key in zip(*(columns[name] for name in KEYS[table]), strict=True)]
    return len(set(keys)) < len(keys)


class _Load:
    """A table that is filled without its indexes."""

    def __init__(self, connection: AsyncConnection, table: Table, names: Sequence[str]) -> None:
        self._connection = connection
        self._table = table
        self._names = names
        self._columns = names
        self._text = CopyText()
        self._copy: AsyncCopy | None = None

    @asynccontextmanager
    async def copying(self) -> AsyncIterator[None]:
        """The COPY into the table; :meth:`write` works within it."""
        async with copying(self._connection, self._table, self._columns) as self._copy:
            yield

    async def write(self, columns: Columns) -> None:
        """Write those columns of a batch that belong to this table."""
        assert self._copy is not None, "write within copying()"  # noqa: S101
        await self._copy.write(self._text.of(self._pick(columns)))

    def _pick(self, columns: Columns) -> Columns:
        return {name: columns[name] for name in self._names}

    async def finish(self) -> None:
        """Build the primary key and the indexes, after all rows are written."""
        await self._connection.execute(AddConstraint(self._table.primary_key, isolate_from_table=False))
        for index in self._table.indexes:
            await self._connection.execute(CreateIndex(index))


class _Merge(_Load):
    """A table whose rows are staged first and then merged into it."""

    def __init__(
        self, connection: AsyncConnection, table: Table, names: Sequence[str], rows: Rows, staged_table: Table
    ) -> None:
        super().__init__(connection, staged_table, names)
        self._columns = staged_table.c.keys()
        self._merging = upserting(rows, table, names, latest_of(staged_table, table, names))
        self._lines = 0

    def _pick(self, columns: Columns) -> Columns:
        picked = numbered(super()._pick(columns), self._lines)
        self._lines += len(picked["line"])
        return picked

    async def finish(self) -> None:
        """Merge the staged rows."""
        await self._connection.execute(self._merging)
