"""Erasing a user: every row of every table that is theirs, in one transaction.

The rows are found from the definitions of the tables, so that a new table is covered at once:

1. A column that holds GUIDs (``tables.guid_columns``) names the user, or one of the user's members. A member is the user's if ``members`` or
   any other row names both. A member that belongs to another user by now is left alone.
2. A row that refers to such a row by a foreign key is erased with it.

`tests/integration/store/test_forgetting.py` plants values in every column of every table, and finds none of them afterwards.

**Claimed work.** Rows are locked before they are read. So a worker settles either before that, and its result is erased, or after it, and then
it finds no row and changes nothing. On PostgreSQL ``reconnections`` is locked against writes meanwhile: otherwise a sweep that had read the
user's members could open another one.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Table, delete, select
from sqlalchemy import text as sql_text
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.reconciling import Reconciling
from worker.store.sql.database import Database
from worker.store.sql.rows import Rows
from worker.store.sql.tables import guid_columns, members, metadata, reconnections

#: Tables without rows of users, which need no search.
NOT_OF_USERS = frozenset(
    {"daily_totals", "false_alarms", "institutions", "pauses", "reconciliations", "sweep_marks", "sweeps", "syncs"}
)
#: A partial index is used only by a query with its condition.
_HALVES: Mapping[Any, Sequence[Any]] = {
    reconnections.c.user_guid: (reconnections.c.closed_at.is_(None), reconnections.c.closed_at.is_not(None)),
}
#: Columns that are not searched: they have no index, the tables are large, and a foreign key finds their rows.
_BY_REFERENCE = frozenset({"windows.member_guid"})
#: In these tables only the member's GUID identifies a user's row: they name the user by MX's GUID, or no user.
_BY_MEMBER = frozenset({"hints", "sync_missing"})
#: A transaction that began earlier may write a row afterwards. So the search is made this many times.
_PASSES = 3

#: Rows by the name of their table.
FoundRows = dict[str, set[Any]]


class ForgetStore:
    """Finds and erases a user's rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._search = database.rows.part(_Search)

    async def count(self, user_guid: str) -> dict[str, int]:
        """How many rows of each table are this user's; empty if there are none."""

        async def work(connection: AsyncConnection) -> dict[str, int]:
            rows_by_table = await self._search.find(
                connection, user_guid, await self._search.members_of(connection, user_guid)
            )
            return _numbers(rows_by_table)

        return await self._database.transaction(work)

    async def forget(self, user_guid: str) -> dict[str, int]:
        """Erase the user; returns how many rows of each table were deleted."""
        erased: dict[str, int] = {}
        member_guids: set[str] = set()

        async def work(connection: AsyncConnection) -> dict[str, int]:
            if not self._database.rows.is_sqlite:
                await connection.execute(sql_text("LOCK TABLE reconnections IN EXCLUSIVE MODE"))
            return await self._search.erase(connection, user_guid, member_guids)

        for _ in range(_PASSES):
            deleted = await self._database.transaction(work)
            if not deleted:
                break
            for table, number in deleted.items():
                erased[table] = erased.get(table, 0) + number
        return erased


class _Search:
    """The statements, made once; in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._reconciling = rows.part(Reconciling)
        self._tables = [table for table in metadata.sorted_tables if table.name not in NOT_OF_USERS]

    async def members_of(self, connection: AsyncConnection, user_guid: str) -> set[str]:
        """The GUIDs of the user's members, and those that they moved to, except members that are another user's by now."""
        guids: set[str] = set()
        for table in self._tables:
            if "user_guid" not in table.c:
                continue
            member_columns = [column for column in guid_columns(table) if column.name != "user_guid"]
            if member_columns:
                for row in await self._rows_at(connection, table.c.user_guid, [user_guid], member_columns):
                    guids |= {guid for guid in row if guid is not None}
        owners = await self._rows_at(
            connection, members.c.member_guid, guids, [members.c.member_guid, members.c.user_guid]
        )
        return guids - {member for member, user in owners if user != user_guid} - {user_guid}

    async def find(
        self, connection: AsyncConnection, user_guid: str, member_guids: Collection[str], *, lock: bool = False
    ) -> FoundRows:
        """The primary keys of all rows that are theirs, by table."""
        rows_by_table: FoundRows = {}
        for table in self._tables:
            key, ids = list(table.primary_key), set()
            for column in guid_columns(table):
                if f"{table.name}.{column.name}" in _BY_REFERENCE:
                    continue
                guids = [user_guid] if column.name == "user_guid" else [user_guid, *member_guids]
                user_columns = [table.c.user_guid] if "user_guid" in table.c else []
                for row in await self._rows_at(connection, column, guids, [*key, *user_columns], lock=lock):
                    if not user_columns or table.name in _BY_MEMBER or row[-1] in {None, user_guid}:
                        ids.add(tuple(row[: len(key)]))
            for reference in sorted(table.foreign_keys, key=lambda each: each.parent.name):
                parents = [id_[0] for id_ in rows_by_table.get(reference.column.table.name, ())]
                ids |= set(map(tuple, await self._rows_at(connection, reference.parent, parents, key, lock=lock)))
            if ids:
                rows_by_table[table.name] = ids
        return rows_by_table

    async def erase(self, connection: AsyncConnection, user_guid: str, member_guids: set[str]) -> dict[str, int]:
        """Delete all rows. The members found are added to ``member_guids``, so that later passes know them."""
        erased: dict[str, int] = {}
        # Deleting members may list them as changed, by a trigger.
        for _ in range(_PASSES):
            member_guids |= await self.members_of(connection, user_guid)
            rows_by_table = await self.find(connection, user_guid, member_guids, lock=True)
            member_guids |= await self._of_windows(connection, user_guid, rows_by_table)
            if not rows_by_table:
                break
            for table in reversed(self._tables):
                await self._delete(connection, table, rows_by_table.get(table.name, set()))
            for name, number in _numbers(rows_by_table).items():
                erased[name] = erased.get(name, 0) + number
        await self._reconciling.leave(connection, member_guids)
        return erased

    async def _of_windows(self, connection: AsyncConnection, user_guid: str, rows_by_table: FoundRows) -> set[str]:
        """The GUIDs that MX answered with."""
        windows = metadata.tables["windows"].c
        ids = [id_[0] for id_ in rows_by_table.get("windows", ())]
        return {row[0] for row in await self._rows_at(connection, windows.id, ids, [windows.member_guid])} - {user_guid}

    async def _rows_at(
        self,
        connection: AsyncConnection,
        column: Column[Any],
        values: Collection[Any],
        columns: Sequence[Any],
        *,
        lock: bool = False,
    ) -> list[Any]:
        """These columns of the rows in which ``column`` has one of these values."""
        if not values:
            return []
        rows: list[Any] = []
        for condition in _HALVES.get(column, (column.is_not(None),)):
            query = select(*columns).where(column.in_(sorted(values)), condition).order_by(*column.table.primary_key)
            rows += (await connection.execute(query.with_for_update() if lock else query)).all()
        return rows

    async def _delete(self, connection: AsyncConnection, table: Table, ids: Collection[tuple[Any, ...]]) -> None:
        first, *others = table.primary_key
        for id_ in sorted(ids) if others else ():
            same = [column == value for column, value in zip((first, *others), id_, strict=True)]
            await connection.execute(delete(table).where(*same))
        if not others and ids:
            await connection.execute(delete(table).where(first.in_(sorted(id_[0] for id_ in ids))))


def _numbers(rows_by_table: FoundRows) -> dict[str, int]:
    return {name: len(ids) for name, ids in sorted(rows_by_table.items())}
