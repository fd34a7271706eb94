"""The owner of ``windows``: the OAuth URIs that MX gave out, encrypted, one live window at most for each reconnection.

A URI is forgotten as soon as its window is superseded: by a fresh one, or because nobody will be sent there any more.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Text, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.encryption import Vault
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections, windows

r, w = reconnections.c, windows.c

#: URIs re-encrypted in one transaction.
BATCH = 500


class NewWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window that MX gave out for a reconnection."""

    reconnection_id: int
    #: The GUID that MX answered with.
    member_guid: str
    #: Encrypted.
    locked_uri: str

    def __repr__(self) -> str:
        return f"NewWindow({self.reconnection_id})"


class Windows:
    """Writes windows, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        now = bindparam("now", type_=Moment())
        ids = rows.table("given", {"id": BigInteger()}).c
        self._wipe = (
            update(windows)
            .where(w.reconnection_id == ids.id, w.superseded_at.is_(None))
            .values(superseded_at=now, uri=None)
        )
        columns = ["reconnection_id", "epoch", "member_guid", "uri", "fetched_at"]
        fetched = rows.table("given", {"id": BigInteger(), "epoch": BigInteger(), "member_guid": Text(), "uri": Text()})
        self._store = (
            rows.insert(windows)
            .from_select(columns, select(fetched, now))
            .returning(windows.c.id, windows.c.reconnection_id)
        )
        fresh = rows.table("given", {"id": BigInteger(), "member_guid": Text(), "uri": Text()})
        self._renew = rows.insert(windows).from_select(
            columns, select(r.id, r.epoch, fresh.c.member_guid, fresh.c.uri, now).join(fresh, r.id == fresh.c.id)
        )

    async def wipe(self, connection: AsyncConnection, reconnection_ids: Collection[int], now: datetime) -> None:
        """Supersede the live windows of these reconnections and forget their URIs. Called where a reconnection moves, only."""
        if reconnection_ids:
            given = self._rows.encode({"id": id_} for id_ in reconnection_ids)
            await connection.execute(self._wipe, {"given": given, "now": now})

    async def store(
        self, connection: AsyncConnection, fetched: Sequence[NewWindow], epochs: Mapping[int, int], now: datetime
    ) -> dict[int, int]:
        """Store windows that were fetched under these epochs of their reconnections; window ids by reconnection id."""
        if not fetched:
            return {}
        given = [_row(window) | {"epoch": epochs[window.reconnection_id]} for window in fetched]
        stored = await connection.execute(self._store, {"given": self._rows.encode(given), "now": now})
        return {reconnection_id: id_ for id_, reconnection_id in stored}

    async def renew(self, connection: AsyncConnection, fresh: Sequence[NewWindow], now: datetime) -> None:
        """Store the windows that take the place of wiped ones, under the present epochs of their reconnections."""
        if fresh:
            given = self._rows.encode(map(_row, fresh))
            await connection.execute(self._renew, {"given": given, "now": now})


def _row(window: NewWindow) -> dict[str, Any]:
    return {"id": window.reconnection_id, "member_guid": window.member_guid, "uri": window.locked_uri}


def live_window_of(reconnection_id: Any) -> Any:
    """The id of the reconnection's live window, as part of a statement."""
    return select(w.id).where(w.reconnection_id == reconnection_id, w.superseded_at.is_(None)).scalar_subquery()


class RotationStore:
    """Walks the windows that still hold a URI."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def remaining(self) -> int:
        """How many stored URIs there are to look at."""

        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(select(func.count()).where(w.uri.is_not(None))) or 0)

        return await self._database.transaction(work)

    async def rotate_after(self, last: int) -> tuple[int | None, int, int]:
        """One batch beyond id ``last``: the id it came to (``None`` at the end), how many it looked at and re-encrypted.

        A URI that changed meanwhile is left alone: whoever wrote it used the first key.
        """
        page = select(w.id, w.uri).where(w.id > bindparam("last"), w.uri.is_not(None)).order_by(w.id).limit(BATCH)
        rows = self._database.rows
        given = rows.table("given", {"id": BigInteger(), "before": Text(), "after": Text()}).c
        change = update(windows).where(w.id == given.id, w.uri == given.before).values(uri=given.after)

        async def work(connection: AsyncConnection) -> tuple[int | None, int, int]:
            found = (await connection.execute(page, {"last": last})).all()
            stale = [
                {"id": row.id, "before": row.uri, "after": self._vault.rotate(row.uri)}
                for row in found
                if not self._vault.is_under_first_key(row.uri)
            ]
            if stale:
                await connection.execute(change, {"given": rows.encode(stale)})
            return (found[-1].id if found else None), len(found), len(stale)

        return await self._database.transaction(work)
