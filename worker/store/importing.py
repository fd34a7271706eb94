"""Upserting users, devices and members by the batch."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.database import Database
from worker.store.tables import devices, members, users


class ImportStore:
    """Writes what `reconnect import` read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def upsert(
        self,
        *,
        user_rows: Sequence[Mapping[str, Any]],
        member_rows: Sequence[Mapping[str, Any]],
        device_rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write a batch in one transaction. Rows of one table have the same columns; the last row of a key wins."""

        async def work(connection: AsyncConnection) -> None:
            await self._into(connection, users, ("user_guid",), user_rows)
            await self._into(connection, members, ("member_guid",), member_rows)
            await self._into(connection, devices, ("device_kind", "device_address"), device_rows)

        await self._database.transaction(work)

    async def _into(
        self, connection: AsyncConnection, table: Table, key: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        if not rows:
            return
        latest = {tuple(row[name] for name in key): row for row in rows}
        columns = list(rows[0])
        given = self._database.rows.table("given", {name: table.c[name].type for name in columns})
        insert = self._database.rows.insert(table).from_select(columns, select(given).where(true()))
        others = {name: insert.excluded[name] for name in columns if name not in key}
        insert = (
            insert.on_conflict_do_update(index_elements=list(key), set_=others)
            if others
            else insert.on_conflict_do_nothing(index_elements=list(key))
        )
        # In the order of the key, so that two imports at once do not wait for each other in a ring.
        ordered = [row for _, row in sorted(latest.items())]
        await connection.execute(insert, {"given": self._database.rows.encode(ordered)})
