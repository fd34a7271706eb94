"""The owner of ``links``: our durable addresses in messages."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, String, Text, bindparam, delete, exists, func, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.database import Database
from worker.store.sql.fast_statements import FastStatement
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import clicks, links, reconnections

k, r = links.c, reconnections.c


class NewLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link to be stored."""

    token_hash: str
    user_guid: str
    expires_at: datetime
    #: The message that carries the link; ``None``: the link is about all that its user has to reconnect.
    notification_id: int | None = None


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A stored link."""

    id: int
    user_guid: str
    notification_id: int | None
    created_at: datetime
    expires_at: datetime
    clicked_at: datetime | None


class LinkAt(msgspec.Struct, frozen=True, kw_only=True):
    """A link, and the moment by the database's clock at which it was read."""

    id: int
    user_guid: str
    notification_id: int | None
    created_at: datetime
    now: datetime


class Links:
    """The statements on ``links``; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        given = rows.table(
            "given",
            {
                "token_hash": Text(),
                "user_guid": Text(),
                "expires_at": Moment(),
                "notification_id": BigInteger(),
                "now": Moment(),
            },
        ).c
        columns = ["token_hash", "user_guid", "expires_at", "notification_id", "created_at"]
        self._store = rows.insert(links).from_select(
            columns,
            select(
                given.token_hash,
                given.user_guid,
                given.expires_at,
                given.notification_id,
                func.coalesce(given.now, database_now()),
            ).where(true()),  # SQLite accepts ON CONFLICT after a SELECT only with a WHERE
        )
        self._store_once = self._store.on_conflict_do_nothing(index_elements=["token_hash"])
        self._is_stored = select(k.id).where(k.token_hash == bindparam("of_hash", type_=String()))
        self._press = FastStatement(rows, pressing())
        hashes = rows.table("given", {"token_hash": Text()}).c
        self._withdraw = delete(links).where(
            rows.among(k.token_hash, select(hashes.token_hash)), ~exists().where(clicks.c.link_id == k.id)
        )

    async def store(self, connection: AsyncConnection, new: Sequence[NewLink], now: datetime | None = None) -> None:
        """Store links in one statement. Without ``now`` they are dated by the database's clock."""
        if new:
            given = self._rows.encode(msgspec.structs.asdict(link) | {"now": now} for link in new)
            await connection.execute(self._store, {"given": given})

    async def store_once(self, connection: AsyncConnection, link: NewLink) -> None:
        """Store a link unless it is stored already."""
        if await connection.scalar(self._is_stored, {"of_hash": link.token_hash}) is None:
            given = self._rows.encode([msgspec.structs.asdict(link) | {"now": None}])
            await connection.execute(self._store_once, {"given": given})

    async def withdraw(self, connection: AsyncConnection, token_hashes: Sequence[str]) -> None:
        """Delete links whose message certainly did not leave, so that nobody has them. A link with a click stays all the same."""
        if token_hashes:
            given = self._rows.encode({"token_hash": token_hash} for token_hash in sorted(token_hashes))
            await connection.execute(self._withdraw, {"given": given})

    async def press(self, connection: AsyncConnection, token_hash: str) -> LinkAt | None:
        """Record a press of a link's button, and lock the link; ``None`` for a token that is unknown or expired."""
        row = await self._press.first(connection, {"of_hash": token_hash})
        return None if row is None else LinkAt(**row._asdict())


def pressing(*only_if: ColumnElement[bool]) -> Any:
    """Record a press of the link with the hash ``of_hash``, which locks its row; part of a statement."""
    return (
        update(links)
        .where(k.token_hash == bindparam("of_hash", type_=String()), k.expires_at > database_now(), *only_if)
        .values(clicked_at=func.coalesce(k.clicked_at, database_now()), last_clicked_at=database_now())
        .returning(k.id, k.user_guid, k.notification_id, k.created_at, k.last_clicked_at.label("now"))
    )


class LinkStore:
    """Transactions about links alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._links = database.rows.part(Links)

    async def make(self, new: NewLink, *, now: datetime) -> None:
        """Store one link."""
        await self._database.transaction(lambda connection: self._links.store(connection, [new], now))

    async def has_open(self, user_guid: str) -> bool:
        """Whether this user has anything to reconnect."""
        query = select(r.id).where(r.user_guid == user_guid, r.closed_at.is_(None)).limit(1)

        async def work(connection: AsyncConnection) -> bool:
            return await connection.scalar(query) is not None

        return await self._database.transaction(work)

    async def find(self, token_hash: str) -> Link | None:
        """The link with this token, expired ones too."""

        async def work(connection: AsyncConnection) -> Link | None:
            columns = (k.id, k.user_guid, k.notification_id, k.created_at, k.expires_at, k.clicked_at)
            rows = await connection.execute(select(*columns).where(k.token_hash == token_hash))
            row = rows.mappings().first()
            return None if row is None else Link(**row)

        return await self._database.transaction(work)
