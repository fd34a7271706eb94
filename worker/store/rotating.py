"""Putting stored URIs under the first of ``URI_KEYS``, batch by batch; may be interrupted and run again."""

from sqlalchemy import BigInteger, Text, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.encryption import Vault
from worker.store.sql.database import Database
from worker.store.sql.tables import windows

w = windows.c

#: URIs re-encrypted in one transaction.
BATCH = 500


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
