"""The owner of ``windows``: the OAuth URIs that MX gave out, encrypted.

A reconnection has at most one live window that fetch or deliver stored, and any number that were minted for clicks. A window is handed out
to one click at most: ``click_id`` is written only while it is NULL, and is unique.

A window is superseded when a fresh one replaces it, when its reconnection closes, or when the reconnection is left out of its message. A
window that was minted for a click is superseded when the reconnection closes, or by the first sweep more than two minutes later. Its URI is
deleted at the same time.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Text, bindparam, exists, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.encryption import Vault
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import links, notification_reconnections, reconnections, windows

r, w = reconnections.c, windows.c

#: URIs re-encrypted in one transaction.
BATCH = 500


class NewWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window that MX gave out for a reconnection."""

    reconnection_id: int
    #: The GUID that MX answered with.
    member_guid: str
    #: Encrypted.
    encrypted_uri: str

    def __repr__(self) -> str:
        return f"NewWindow({self.reconnection_id})"


class Windows:
    """Writes windows, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        now = bindparam("now", type_=Moment())
        wiped = rows.table("given", {"id": BigInteger(), "closed": Boolean()}).c
        self._wipe = (
            update(windows)
            .where(w.reconnection_id == wiped.id, w.superseded_at.is_(None), or_(w.epoch.is_not(None), wiped.closed))
            .values(superseded_at=now, uri=None)
        )
        self._hand_out = _hand_out()
        self._take_back = (
            update(windows).where(w.click_id == bindparam("pressed", type_=BigInteger())).values(click_id=None)
        )
        self._of_click = select(w.uri).where(w.click_id == bindparam("pressed", type_=BigInteger()))
        self._store_clicked = storing_clicked(rows, of=bindparam("about", type_=BigInteger()))
        columns = ["reconnection_id", "epoch", "member_guid", "uri", "fetched_at"]
        fetched = rows.table("given", {"id": BigInteger(), "epoch": BigInteger(), "member_guid": Text(), "uri": Text()})
        self._store = (
            rows.insert(windows)
            .from_select(columns, select(fetched, now))
            .returning(windows.c.id, windows.c.reconnection_id)
        )
        fresh = rows.table("given", {"id": BigInteger(), "member_guid": Text(), "uri": Text()})
        self._renew = rows.insert(windows).from_select(
            columns,
            # A click may have ended the reconnection while deliver asked MX.
            select(r.id, r.epoch, fresh.c.member_guid, fresh.c.uri, now)
            .join(fresh, r.id == fresh.c.id)
            .where(r.closed_at.is_(None)),
        )

    async def wipe(
        self, connection: AsyncConnection, reconnection_ids: Collection[int], now: datetime, *, closed: Collection[int]
    ) -> None:
        """Supersede the live windows of these reconnections and delete their URIs. Called only where a reconnection moves.

        ``closed``: those that closed; their clicks' windows are superseded too.
        """
        if reconnection_ids:
            closed_ids = frozenset(closed)
            given = self._rows.encode({"id": id_, "closed": id_ in closed_ids} for id_ in reconnection_ids)
            await connection.execute(self._wipe, {"given": given, "now": now})

    async def hand_out(
        self, connection: AsyncConnection, reconnection_id: int, click_id: int, *, fetched_after: datetime
    ) -> str | None:
        """Hand the live window of a reconnection out to a click: its encrypted URI; ``None`` if there is none for it.

        Hands out a window only if no click had it and every message about it carried our link. So its URI never left this database.
        """
        parameters = {"about": reconnection_id, "pressed": click_id, "fetched_after": fetched_after}
        uri: str | None = await connection.scalar(self._hand_out, parameters)
        return uri

    async def take_back(self, connection: AsyncConnection, click_id: int) -> None:
        """Undo :meth:`hand_out` for a click in the same transaction, because the window cannot be used."""
        await connection.execute(self._take_back, {"pressed": click_id})

    async def store_clicked(
        self, connection: AsyncConnection, minted: NewWindow, click_id: int, now: datetime
    ) -> str | None:
        """Store a window that was minted for a click, unless the click has one; returns the encrypted URI of the click's window."""
        parameters = {"about": minted.reconnection_id, "guid": minted.member_guid, "locked": minted.encrypted_uri}
        uri: str | None = await connection.scalar(self._store_clicked, parameters | {"pressed": click_id, "now": now})
        return uri if uri is not None else await self.of_click(connection, click_id)

    async def of_click(self, connection: AsyncConnection, click_id: int) -> str | None:
        """The encrypted URI that a click was given; ``None``: none yet, or it was deleted."""
        uri: str | None = await connection.scalar(self._of_click, {"pressed": click_id})
        return uri

    async def forget_clicked(self, connection: AsyncConnection, before: datetime, now: datetime) -> int:
        """Supersede windows that were minted for clicks before ``before``, and delete their URIs: no click is led there any more."""
        statement = (
            update(windows)
            .where(w.superseded_at.is_(None), w.epoch.is_(None), w.fetched_at < before)
            .values(superseded_at=now, uri=None)
        )
        return int((await connection.execute(statement)).rowcount)

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
        """Store windows that replace wiped ones, under the current epochs of their reconnections."""
        if fresh:
            given = self._rows.encode(map(_row, fresh))
            await connection.execute(self._renew, {"given": given, "now": now})


def _row(window: NewWindow) -> dict[str, Any]:
    return {"id": window.reconnection_id, "member_guid": window.member_guid, "uri": window.encrypted_uri}


def live_window_of(reconnection_id: Any) -> Any:
    """The id of the reconnection's live window that fetch or deliver stored, as part of a statement."""
    live = (w.reconnection_id == reconnection_id, w.superseded_at.is_(None), w.epoch.is_not(None))
    return select(w.id).where(*live).scalar_subquery()


def may_be_handed_out(reconnection_id: Any, *, fetched_after: Any) -> Any:
    """Whether there is a window that :meth:`Windows.hand_out` may hand out; part of a statement."""
    return exists().where(*_unclaimed(reconnection_id, fetched_after))


def _unclaimed(reconnection_id: Any, fetched_after: Any) -> Any:
    """The condition for the live window that fetch or deliver stored, if it is young enough and was not handed out."""
    return (
        w.reconnection_id == reconnection_id,
        w.superseded_at.is_(None),
        w.epoch.is_not(None),
        w.click_id.is_(None),
        w.uri.is_not(None),
        w.fetched_at > fetched_after,
    )


def storing_clicked(rows: Rows, *, of: Any) -> Any:
    """Store a window that was minted for a click, unless the click has one, and return its encrypted URI; part of a statement."""
    return (
        rows.insert(windows)
        .from_select(
            ["reconnection_id", "member_guid", "uri", "fetched_at", "click_id"],
            select(
                of,
                bindparam("guid", type_=Text()),
                bindparam("locked", type_=Text()),
                bindparam("now", type_=Moment()),
                bindparam("pressed", type_=BigInteger()),
            ).where(true()),  # without WHERE, SQLite reads ON CONFLICT as the ON of a join
        )
        .on_conflict_do_nothing()
        .returning(w.uri)
    )


def _hand_out() -> Any:
    link, sent = notification_reconnections.c, links.c
    carries_window = exists().where(link.reconnection_id == w.reconnection_id, link.window_id == w.id)
    has_our_link = exists().where(sent.notification_id == link.notification_id).correlate(notification_reconnections)
    return (
        update(windows)
        .where(
            *_unclaimed(bindparam("about", type_=BigInteger()), bindparam("fetched_after", type_=Moment())),
            carries_window.where(has_our_link),
            # A message that left before PUBLIC_BASE_URL was set carried the URI itself; it has no link.
            ~carries_window.where(~has_our_link),
        )
        .values(click_id=bindparam("pressed", type_=BigInteger()))
        .returning(w.uri)
    )


class RotationStore:
    """Re-encrypts the stored URIs, batch by batch."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def remaining(self) -> int:
        """How many URIs are stored."""

        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(select(func.count()).where(w.uri.is_not(None))) or 0)

        return await self._database.transaction(work)

    async def rotate_after(self, last: int) -> tuple[int | None, int, int]:
        """Re-encrypt a batch of ids after ``last``: its last id (``None`` at the end), how many were read, and how many re-encrypted.

        A URI that changed meanwhile is left alone: it was written with the first key.
        """
        page = select(w.id, w.uri).where(w.id > bindparam("last"), w.uri.is_not(None)).order_by(w.id).limit(BATCH)
        rows = self._database.rows
        given = rows.table("given", {"id": BigInteger(), "before": Text(), "after": Text()}).c
        change = update(windows).where(w.id == given.id, w.uri == given.before).values(uri=given.after)

        async def work(connection: AsyncConnection) -> tuple[int | None, int, int]:
            stored = (await connection.execute(page, {"last": last})).all()
            stale = [
                {"id": row.id, "before": row.uri, "after": self._vault.rotate(row.uri)}
                for row in stored
                if not self._vault.is_under_first_key(row.uri)
            ]
            if stale:
                await connection.execute(change, {"given": rows.encode(stale)})
            return (stored[-1].id if stored else None), len(stored), len(stale)

        return await self._database.transaction(work)
