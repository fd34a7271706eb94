"""Upserting users, devices and members batch by batch; ``store/first_load.py`` loads a first file at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, Table, or_, select, true
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.copying import CopyText, copying
from worker.store.sql.database import Database
from worker.store.sql.rows import Rows
from worker.store.sql.tables import devices, members, users

#: Rows that have the same columns, by the column.
Columns = Mapping[str, Sequence[Any]]

KEYS: Mapping[Table, tuple[str, ...]] = {
    users: ("user_guid",),
    members: ("member_guid",),
    devices: ("device_kind", "device_address"),
}
#: From this many rows on a batch is staged by COPY; for fewer a temporary table costs more than it saves.
_WORTH_A_COPY = 500


class ImportStore:
    """Writes what `reconnect import` read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: The best number of rows for one transaction.
        self.slice = 1_000 if database.rows.is_sqlite else 20_000

    async def upsert(self, columns: Columns) -> None:
        """Write a batch in one transaction. The last row of a key wins."""
        rows = self._database.rows
        copied = not rows.is_sqlite and len(columns["member_guid"]) >= _WORTH_A_COPY

        async def work(connection: AsyncConnection) -> None:
            staged_table = await staged(connection, list(columns)) if copied else None
            if staged_table is not None:
                async with copying(connection, staged_table, staged_table.c.keys()) as copy:
                    await copy.write(CopyText().of(numbered(columns)))
            for table, key in KEYS.items():
                names = names_of(table, columns)
                if not set(key) <= set(names):
                    continue
                if staged_table is None:
                    parameters = {"given": rows.encode(_latest(columns, key, names))}
                    await connection.execute(upserting(rows, table, names, _bound(rows, table, names)), parameters)
                else:
                    await connection.execute(upserting(rows, table, names, latest_of(staged_table, table, names)))

        await self._database.transaction(work)


def names_of(table: Table, columns: Columns) -> list[str]:
    """The columns that go into a table."""
    return [name for name in columns if name in table.c]


def upserting(rows: Rows, table: Table, names: Sequence[str], source: Any) -> Any:
    """The statement that upserts the rows of a query.

    A row that already has the file's values is not written again, so a daily import of everything costs little.
    """
    key = KEYS[table]
    insert = rows.insert(table).from_select(list(names), source)
    others = {name: insert.excluded[name] for name in names if name not in key}
    if not others:
        return insert.on_conflict_do_nothing(index_elements=list(key))
    changed = or_(*(table.c[name].is_distinct_from(value) for name, value in others.items()))
    return insert.on_conflict_do_update(index_elements=list(key), set_=others, where=changed)


def _bound(rows: Rows, table: Table, names: Sequence[str]) -> Any:
    given = rows.table("given", {name: table.c[name].type for name in names})
    return select(given).where(true())


def _latest(columns: Columns, key: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """The table's columns of the rows: the last row of each key.

    They are sorted by key, so that two imports at once cannot deadlock and the index grows at its end.
    """
    keys = zip(*(columns[name] for name in key), strict=True)
    rows = zip(*(columns[name] for name in names), strict=True)
    latest = {row_key: row for row_key, row in zip(keys, rows, strict=True) if row_key[0] is not None}
    return [dict(zip(names, latest[row_key], strict=True)) for row_key in sorted(latest)]


def latest_of(staged_table: Table, table: Table, names: Sequence[str]) -> Any:
    """The same for staged rows, as a query: the last row of each key."""
    keys = [staged_table.c[name] for name in KEYS[table]]
    query = select(*(staged_table.c[name] for name in names)).ext(distinct_on(*keys))
    return query.where(keys[0].is_not(None)).order_by(*keys, staged_table.c.line.desc())


async def staged(connection: AsyncConnection, names: Sequence[str]) -> Table:
    """A temporary table for rows with these columns, dropped at the end of the transaction; ``line`` numbers the rows."""
    types = {name: table.c[name].type for table in KEYS for name in names if name in table.c}
    staged_table = Table(
        "given",
        MetaData(),
        Column("line", BigInteger),
        *(Column(name, types[name]) for name in names),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
    await connection.run_sync(staged_table.create)
    return staged_table


def numbered(columns: Columns, start: int = 0) -> Columns:
    """The columns for a staged table, with ``line``."""
    rows = len(next(iter(columns.values())))
    return {"line": [str(line) for line in range(start, start + rows)], **columns}
