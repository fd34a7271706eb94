"""Finding what an operator means: users by address, and existing names that are near to an unknown one."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.application import is_guid, plain_text
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.tables import members, notification_reconnections, notifications, reconnections, users

m, n, u, r = members.c, notifications.c, users.c, reconnections.c

#: At most so many names are read to find the nearest.
_MOST = 10_000


class LookupStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _rows(self, query: Any) -> list[Any]:
        async def work(connection: AsyncConnection) -> list[Any]:
            return [tuple(row) for row in await connection.execute(query)]

        return await self._database.transaction(work)

    async def addresses(self, spellings: Iterable[str]) -> list[tuple[str, str]]:
        """Users (GUID, address) whose address is one of these, ignoring case and space around it."""
        # Addresses have no index: the table is read once.
        lowered = sorted({spelling.lower() for spelling in spellings})
        query = select(u.user_guid, u.email).where(func.lower(plain_text(u.email)).in_(lowered)).order_by(u.user_guid)
        return [(row[0], row[1]) for row in await self._rows(query)]

    async def has_institution(self, code: str) -> bool:
        """Whether a member or an open reconnection has this institution code."""
        of_member = select(literal(1)).where(plain_text(m.institution_code) == code).limit(1)
        opened = select(literal(1)).where(r.institution_code == code, r.closed_at.is_(None)).limit(1)
        return bool(await self._rows(of_member) or await self._rows(opened))

    async def institutions(self) -> list[str]:
        """The institution codes of members."""
        code = plain_text(m.institution_code)
        query = select(code).where(code.is_not(None)).distinct().limit(_MOST)
        return [row[0] for row in await self._rows(query)]

    async def members_of(self, user_guid: str) -> list[str]:
        """A user's members, including members that only a reconnection names."""
        query = union(
            select(m.member_guid).where(m.user_guid == user_guid, is_guid(m.member_guid)),
            select(r.member_guid).where(r.user_guid == user_guid),
        )
        return sorted(row[0] for row in await self._rows(query))

    async def neighbours(self, guid: str) -> Sequence[str]:
        """The GUIDs next to this one in the order of the index: probably one of them is meant if its end was mistyped."""
        column = m.member_guid if guid.startswith("MBR-") else u.user_guid
        after = select(column).where(column >= guid, is_guid(column)).order_by(column).limit(2)
        before = select(column).where(column < guid, is_guid(column)).order_by(column.desc()).limit(2)
        return [row[0] for query in (after, before) for row in await self._rows(query)]

    async def states(self, guids: Iterable[str]) -> dict[str, str]:
        """The state of the newest reconnection of each of these members; ``""`` for a member that never had one."""
        member_guids = list(guids)
        newest = select(func.max(r.id)).where(r.member_guid.in_(member_guids)).group_by(r.member_guid)
        known = await self._rows(select(m.member_guid).where(m.member_guid.in_(member_guids)))
        states = await self._rows(select(r.member_guid, r.state).where(r.id.in_(newest)))
        return {row[0]: "" for row in known} | dict(states)

    async def requeued(self, guids: Iterable[str], at: datetime) -> set[str]:
        """Those of these members about whom a message was requeued at this moment."""
        link = notification_reconnections.c
        query = (
            select(r.member_guid)
            .join(notification_reconnections, link.reconnection_id == r.id)
            .join(notifications, n.id == link.notification_id)
            .where(r.member_guid.in_(list(guids)), n.outcome == "requeued", n.next_attempt_at == literal(at, Moment()))
        )
        return {row[0] for row in await self._rows(query)}
