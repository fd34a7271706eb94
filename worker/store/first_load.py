"""The first import: all rows at once, and their indexes after them.

PostgreSQL puts a million rows one by one into indexes whose keys come in no order, or it sorts the keys once and builds the indexes
from that, which costs much less. So where there are no members yet, a whole file is loaded without indexes, which are then built.
Users go the same way if there are none yet and none comes twice; else they are staged and then merged as in any import, and so are
devices. Each table has a connection and a transaction of its own, so that they are filled side by side; that of members commits last: a member
that can be seen has its user.

A table that is loaded is locked until the import ends, as nobody may read one whose indexes are not there. The import waits at most
a second for a lock. If anything is in its way (a lock, rows that are there already, a key that comes twice, rights that are lacking, an
application's foreign key), all of it is rolled back. Then the rows are imported in the ordinary way.

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

#: Rows of a batch that are sent at once: as many as fit into a socket, so that PostgreSQL is at work while the next are read.
SLICE = 1_000
#: Slices that are looked at before the way of their users is chosen; a shorter file is not worth all this.
_AHEAD = 20

#: How long to wait for another's lock, and memory to sort in: in the 4 MB that PostgreSQL comes with it would sort on disk.
_SETTINGS = {"lock_timeout": "1s", "maintenance_work_mem": "128MB", "work_mem": "128MB", "jit": "off"}


class _InTheWay(Exception):  # noqa: N818 - no error: there is the ordinary way
    """Rows that this way cannot take, or that are there already."""


async def first_load(database: Database, slices: Iterable[Columns]) -> bool:
    """Write all batches of a file, of :data:`SLICE` rows each; whether that was possible. If not, nothing is written."""
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
                await _all(load.write(columns) for load in loads)
        await _all(load.finish() for load in loads)


async def _all(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Side by side to the end of each: a transaction is not rolled back while it is at work."""
    for error in await asyncio.gather(*jobs, return_exceptions=True):
        if error is not None:
            raise error


async def _begun(connection: AsyncConnection, table: Table, ahead: Sequence[Columns], rows: Rows) -> "_Load":
    """How a table is filled: without its indexes, or by way of a staged one."""
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
    """Whether a key of a table does, so that its rows cannot be loaded as they are."""
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
        """For as long as there is something to write."""
        async with copying(self._connection, self._table, self._columns) as self._copy:
            yield

    async def write(self, columns: Columns) -> None:
        """Take of a batch what goes into this table."""
        assert self._copy is not None, "write within copying()"  # noqa: S101
        await self._copy.write(self._text.of(self._taken(columns)))

    def _taken(self, columns: Columns) -> Columns:
        return {name: columns[name] for name in self._names}

    async def finish(self) -> None:
        """All is written."""
        await self._connection.execute(AddConstraint(self._table.primary_key, isolate_from_table=False))
        for index in self._table.indexes:
            await self._connection.execute(CreateIndex(index))


class _Merge(_Load):
    """A table that is merged with what was staged for it."""

    def __init__(
        self, connection: AsyncConnection, table: Table, names: Sequence[str], rows: Rows, given: Table
    ) -> None:
        super().__init__(connection, given, names)
        self._columns = given.c.keys()
        self._merging = upserting(rows, table, names, latest_of(given, table, names))
        self._lines = 0

    def _taken(self, columns: Columns) -> Columns:
        taken = numbered(super()._taken(columns), self._lines)
        self._lines += len(taken["line"])
        return taken

    async def finish(self) -> None:
        """Merge it."""
        await self._connection.execute(self._merging)
