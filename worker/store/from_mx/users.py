"""Inserts users that MX lists, and fills their empty addresses."""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Text, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.from_mx.answers import MxUser
from worker.store.sql.application import plain_text
from worker.store.sql.rows import Rows
from worker.store.sql.tables import users

u = users.c


class MxUsers:
    """Writes users, in the transaction of the caller. Its SQL is built once for each database."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        guids = rows.table("given", {"guid": Text()})
        self._insert = (
            rows.insert(users)
            .from_select(["user_guid"], select(guids.c.guid).where(true()))
            .on_conflict_do_nothing(index_elements=["user_guid"])
            .returning(u.user_guid)
        )
        known = rows.table("given", {"user_guid": Text(), "email": Text()}).c
        self._fill_emails = (
            update(users)
            .where(u.user_guid == known.user_guid, plain_text(u.email).is_(None))
            .values(email=known.email)
            .returning(u.user_guid)
        )

    async def apply(self, connection: AsyncConnection, listed: Iterable[MxUser]) -> tuple[int, int]:
        """Insert new users, and fill empty addresses; returns how many of each."""
        by_guid = {user.user_guid: user for user in listed}
        if not by_guid:
            return 0, 0
        inserted = await self.insert(connection, by_guid)
        emails = [
            {"user_guid": guid, "email": by_guid[guid].email}
            for guid in sorted(by_guid)
            if by_guid[guid].email is not None
        ]
        filled: Sequence[str] = ()
        if emails:
            given = self._rows.encode(emails)
            filled = (await connection.execute(self._fill_emails, {"given": given})).scalars().all()
        return inserted, len(filled)

    async def insert(self, connection: AsyncConnection, user_guids: Collection[str]) -> int:
        """Insert the users that we do not have; returns how many these were."""
        given = self._rows.encode({"guid": guid} for guid in sorted(user_guids))
        return len((await connection.execute(self._insert, {"given": given})).scalars().all())
