"""Upserting users, devices and members by the slice."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Column, MetaData, Table, or_, select, true
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.database import Database
from worker.store.moments import as_text
from worker.store.tables import devices, members, users

_TABLES: Mapping[Table, tuple[str, ...]] = {
    users: ("user_guid",),
    members: ("member_guid",),
    devices: ("device_kind", "device_address"),
}
#: Rows that PostgreSQL is better given by COPY; fewer are not worth a table of their own.
_WORTH_A_COPY = 500

#: COPY's own marks.
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"


class ImportStore:
    """Writes what `reconnect import` read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: Rows that are best written in one transaction.
        self.slice = 1_000 if database.rows.is_sqlite else 20_000

    async def upsert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a slice in one transaction. All rows have the same columns; the last row of a key wins."""
        copied = not self._database.rows.is_sqlite and len(rows) >= _WORTH_A_COPY

        async def work(connection: AsyncConnection) -> None:
            given = await _copied(connection, rows) if copied else None
            for table, key in _TABLES.items():
                columns = [name for name in rows[0] if name in table.c]
                if not set(key) <= set(columns):
                    continue
                # In the order of the key, so that two imports at once do not wait for each other in a ring, and so that its
                # index grows at its end.
                if given is None:
                    parameters = {"given": self._database.rows.encode(_latest(rows, key, columns))}
                    await connection.execute(self._insert(table, key, columns, self._bound(table, columns)), parameters)
                else:
                    await connection.execute(self._insert(table, key, columns, _latest_of(given, key, columns)))

        if rows:
            await self._database.transaction(work)

    def _bound(self, table: Table, columns: Sequence[str]) -> Any:
        given = self._database.rows.table("given", {name: table.c[name].type for name in columns})
        return select(given).where(true())

    def _insert(self, table: Table, key: Sequence[str], columns: Sequence[str], source: Any) -> Any:
        insert = self._database.rows.insert(table).from_select(list(columns), source)
        others = {name: insert.excluded[name] for name in columns if name not in key}
        if not others:
            return insert.on_conflict_do_nothing(index_elements=list(key))
        # What is there already as the file has it is not written again: a daily import of everything costs little.
        changed = or_(*(table.c[name].is_distinct_from(value) for name, value in others.items()))
        return insert.on_conflict_do_update(index_elements=list(key), set_=others, where=changed)


def _latest(rows: Sequence[Mapping[str, Any]], key: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """What a table takes of the rows, one for each key."""
    latest = {tuple(row[name] for name in key): row for row in rows if row[key[0]] is not None}
    ordered = sorted(latest.items(), key=lambda item: item[0])
    return [{name: row[name] for name in columns} for _, row in ordered]


def _latest_of(given: Table, key: Sequence[str], columns: Sequence[str]) -> Any:
    """The same of rows that PostgreSQL has."""
    keys = [given.c[name] for name in key]
    found = select(*(given.c[name] for name in columns)).ext(distinct_on(*keys))
    return found.where(keys[0].is_not(None)).order_by(*keys, given.c.line.desc())


async def _copied(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows in a table of their own, which goes with the transaction; ``line`` counts them."""
    columns = list(rows[0])
    types = {name: table.c[name].type for table in _TABLES for name in columns if name in table.c}
    given = Table(
        "given",
        MetaData(),
        Column("line", BigInteger),
        *(Column(name, types[name]) for name in columns),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
    await connection.run_sync(given.create)
    driver: Any = (await connection.get_raw_connection()).driver_connection
    text = "".join(
        "\t".join([str(line), *(_cell(row[name]) for name in columns)]) + "\n" for line, row in enumerate(rows)
    )
    try:
        async with driver.cursor().copy(f"COPY given (line, {', '.join(columns)}) FROM STDIN") as copy:
            await copy.write(text)
    except psycopg.Error as error:
        raise DBAPIError("COPY", None, error, hide_parameters=True, connection_invalidated=driver.closed) from None
    return given


def _cell(value: Any) -> str:
    """A value in COPY's text."""
    if value is None:
        return _NULL
    if isinstance(value, str):
        return value.translate(_ESCAPES) if "\\" in value or not value.isprintable() else value
    return _moment(value) if isinstance(value, datetime) else str(value)


@lru_cache(maxsize=4096)
def _moment(value: datetime) -> str:
    return as_text(value) + "+00"
