"""Deleting old rows that ended: batch by batch, each with all dependent rows in one transaction.

1. Reconnections that ended before ``cut``, the oldest first: their windows, clicks and places in messages, the messages that are about no
   other reconnection, and the links of those messages. The row itself stays while its ``reopen_at`` prevents a new reconnection
   (:mod:`~worker.store.reconnections.emptied`): one row for a member, the newest that does.
2. Such rows, once they are no longer needed: the member is well, or the moment has come. If the member moved to another GUID at MX, the row
   in ``members`` keeps that GUID (``store/members.py``).
3. Links without a message, once they expired.
4. Messages without reconnections; sweeps, syncs and reconciliations, except the newest of each.
5. Events that were accepted or given up.

A message about several reconnections is deleted with the last of them. A link is deleted when its message and its clicks are. Until a link
expires, the reconnections that its page shows are kept. Nothing is deleted before its day is in ``daily_totals``.
"""

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Integer, Table, and_, bindparam, case, delete, exists, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.selection import Reason
from worker.store.members import keep_moves
from worker.store.reconnections.emptied import Emptied
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.scans import by_index
from worker.store.sql.tables import (
    clicks,
    events,
    links,
    notification_reconnections,
    notifications,
    reconciliations,
    reconnections,
    state_literal,
    sweeps,
    syncs,
    windows,
)
from worker.store.totals import HAS_ENDED, WAS_TOLD, Totals

r, n, w, c, k, e, item = (
    reconnections.c,
    notifications.c,
    windows.c,
    clicks.c,
    links.c,
    events.c,
    notification_reconnections.c,
)

#: Rows of one transaction: short, so that nobody waits for it.
BATCH = 200

_CUT, _NOW = bindparam("cut", type_=Moment()), bindparam("now", type_=Moment())
_N = bindparam("n", type_=Integer())


class RetentionStore:
    """Each ``delete_…`` deletes one batch and returns how many rows; fewer than :data:`BATCH` means that none are left."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._totals = database.rows.part(Totals)
        self._old = database.rows.part(_Old)

    async def count_a_day(self, now: datetime) -> bool:
        """Count the first day that is over and not counted; false if there is none. Then rows may be deleted."""

        async def work(connection: AsyncConnection) -> bool:
            await by_index(connection, self._database.rows)
            return await self._totals.count_a_day(connection, now) is not None

        return await self._database.transaction(work)

    async def delete_reconnections(self, cut: datetime, now: datetime) -> int:
        """Delete reconnections that ended before ``cut``, with all dependent rows."""
        return await self._run(self._old.reconnections, cut, now)

    async def delete_emptied(self, cut: datetime, now: datetime) -> int:
        """Delete rows that were kept for their ``reopen_at`` and are no longer needed."""
        return await self._run(self._old.emptied, cut, now)

    async def delete_links(self, cut: datetime, now: datetime) -> int:
        """Delete expired links without a message."""
        return await self._run(self._old.links, cut, now)

    async def delete_messages(self, cut: datetime, now: datetime) -> int:
        """Delete messages without reconnections. Only the oldest ones are examined."""
        return await self._run(self._old.messages, cut, now)

    async def delete_runs(self, cut: datetime, now: datetime) -> int:
        """Delete ended sweeps, syncs and reconciliations, except the newest of each, which decides when the next is due."""
        return await self._run(self._old.runs, cut, now)

    async def delete_events(self, cut: datetime, now: datetime) -> int:
        """Delete events that were accepted or given up. Waiting events are kept, however long the endpoint is down."""
        return await self._run(self._old.events, cut, now)

    async def _run(
        self, batch: Callable[[AsyncConnection, datetime, datetime], Awaitable[int]], cut: datetime, now: datetime
    ) -> int:
        async def work(connection: AsyncConnection) -> int:
            await by_index(connection, self._database.rows)
            return await batch(connection, cut, now)

        return await self._database.transaction(work)


class _Old:
    """The statements, made once; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._emptied = rows.part(Emptied)
        ids = rows.table("given", {"id": BigInteger()}).c
        given = select(ids.id)

        def of(column: Any) -> Any:
            return rows.among(column, given)

        self._ended = (
            select(r.id, case((_blocks_reopening(), 1), else_=0).label("blocks"))
            .where(
                HAS_ENDED,
                r.closed_at < _CUT,
                _none(_links_that_show()),
                _none(_links_that_name()),
                _none(_unfinished_messages()),
            )
            # Not ordered by id as well: a sweep closes many at one moment, and all of those would be sorted.
            .order_by(r.closed_at)
            .limit(_N)
            .with_for_update(skip_locked=True)
        )
        self._released = (
            select(r.id)
            .where(r.emptied_at.is_not(None), or_(r.reopen_at.is_(None), r.reopen_at <= _NOW), r.closed_at.is_not(None))
            .limit(_N)
            .with_for_update(skip_locked=True)
        )
        # No condition on `emptied_at`: PostgreSQL would read the index of all emptied rows.
        member_guids = select(r.member_guid).where(of(r.id))
        self._of_members = select(r.id, r.member_guid, r.reason, r.closed_at, r.reopen_at, r.emptied_at).where(
            rows.among(r.member_guid, member_guids)
        )
        self._messages_about = select(item.notification_id).where(of(item.reconnection_id)).distinct()
        self._links_pressed = select(c.link_id).where(of(c.reconnection_id)).distinct()
        self._links_of = select(k.id).where(of(k.notification_id))
        # In this order, because earlier tables refer to later ones.
        self._dependents = [
            delete(notification_reconnections).where(of(item.reconnection_id)),
            delete(windows).where(of(w.reconnection_id)),
            delete(clicks).where(of(c.reconnection_id)),
        ]
        names_nothing = ~exists().where(item.notification_id == k.notification_id)
        pressed = exists().where(c.link_id == k.id)
        self._links = (
            delete(links)
            .where(of(k.id), k.expires_at < _NOW, ~pressed, or_(k.notification_id.is_(None), names_nothing))
            .returning(k.notification_id)
        )
        about_nothing = and_(~exists().where(item.notification_id == n.id), ~exists().where(k.notification_id == n.id))
        self._messages = delete(notifications).where(of(n.id), WAS_TOLD, about_nothing)
        self._moves = (
            select(r.id, r.member_guid, r.moved_to)
            .where(rows.among(r.member_guid, member_guids), r.moved_to.is_not(None))
            .order_by(r.id)
        )
        self._reconnections = delete(reconnections).where(of(r.id))
        alone = select(k.id).where(k.notification_id.is_(None), k.expires_at < _CUT, ~pressed).order_by(k.expires_at)
        self._links_alone = delete(links).where(k.id.in_(alone.limit(_N)))
        oldest = select(n.id).where(WAS_TOLD, n.outcome_at < _CUT).order_by(n.outcome_at).limit(5 * BATCH).subquery()
        self._about_nothing = delete(notifications).where(n.id.in_(select(oldest.c.id)), about_nothing)
        ended_events = (
            select(e.id).where(e.created_at < _CUT, e.state != state_literal("waiting")).order_by(e.created_at)
        )
        self._events = delete(events).where(e.id.in_(ended_events.limit(_N)))
        self._sweeps, self._syncs = delete(sweeps).where(_of_runs(sweeps)), delete(syncs).where(_of_runs(syncs))
        self._reconciliations = delete(reconciliations).where(_of_runs(reconciliations))

    async def _ids(self, connection: AsyncConnection, query: Any, ids: Collection[int]) -> set[int]:
        return set((await connection.execute(query, {"given": self._given(ids)})).scalars()) if ids else set()

    async def _overtaken(self, connection: AsyncConnection, blocking: Collection[int]) -> set[int]:
        """Older kept rows of the same members, which are not needed besides these: see :func:`_blocks_reopening`."""
        if not blocking:
            return set()
        rows = (await connection.execute(self._of_members, {"given": self._given(blocking)})).all()
        newest = {row.member_guid: row for row in sorted(rows, key=lambda row: int(row.id)) if row.id in blocking}
        return {
            row.id
            for row in rows
            if row.emptied_at is not None
            and row.reopen_at is not None
            and _blocks_as_long(newest[row.member_guid], row)
        }

    def _given(self, ids: Collection[int]) -> str:
        return self._rows.encode({"id": id_} for id_ in sorted(ids))

    async def reconnections(self, connection: AsyncConnection, cut: datetime, now: datetime) -> int:
        old_rows = (await connection.execute(self._ended, {"cut": cut, "now": now, "n": BATCH})).all()
        ids = {row.id for row in old_rows}
        if not ids:
            return 0
        blocking = {row.id for row in old_rows if row.blocks}
        messages = await self._ids(connection, self._messages_about, ids)
        pressed = await self._ids(connection, self._links_pressed, ids)
        carried = await self._ids(connection, self._links_of, messages)
        parameters = {"given": self._given(ids)}
        for statement in self._dependents:
            await connection.execute(statement, parameters)
        if link_ids := pressed | carried:
            deleted_links = await connection.execute(self._links, {"given": self._given(link_ids), "now": now})
            messages |= {id_ for id_ in deleted_links.scalars() if id_ is not None}
        if messages:
            await connection.execute(self._messages, {"given": self._given(messages)})
        overtaken = await self._overtaken(connection, blocking)
        await self._emptied.mark(connection, blocking, now)
        if deletable_ids := (ids - blocking) | overtaken:
            await self._delete(connection, deletable_ids)
        return len(ids)

    async def emptied(self, connection: AsyncConnection, cut: datetime, now: datetime) -> int:  # noqa: ARG002
        ids = set((await connection.execute(self._released, {"now": now, "n": BATCH})).scalars())
        if ids:
            await self._delete(connection, ids)
        return len(ids)

    async def _delete(self, connection: AsyncConnection, ids: Collection[int]) -> None:
        """Delete these rows. The GUID that a member moved to is written into ``members`` first."""
        parameters = {"given": self._given(ids)}
        newest = {row.member_guid: row for row in await connection.execute(self._moves, parameters)}
        moves = {guid: row.moved_to for guid, row in newest.items() if row.id in ids}
        await keep_moves(connection, self._rows, moves)
        await connection.execute(self._reconnections, parameters)

    async def links(self, connection: AsyncConnection, cut: datetime, now: datetime) -> int:  # noqa: ARG002
        return int((await connection.execute(self._links_alone, {"cut": cut, "n": BATCH})).rowcount)

    async def messages(self, connection: AsyncConnection, cut: datetime, now: datetime) -> int:  # noqa: ARG002
        return int((await connection.execute(self._about_nothing, {"cut": cut})).rowcount)

    async def runs(self, connection: AsyncConnection, cut: datetime, now: datetime) -> int:  # noqa: ARG002
        parameters = {"cut": cut, "n": BATCH}
        statements = (self._sweeps, self._syncs, self._reconciliations)
        return max([int((await connection.execute(statement, parameters)).rowcount) for statement in statements])

    async def events(self, connection: AsyncConnection, cut: datetime, now: datetime) -> int:  # noqa: ARG002
        return int((await connection.execute(self._events, {"cut": cut, "n": BATCH})).rowcount)


def _of_runs(table: Table) -> Any:
    """The oldest rows of a table of runs. They are selected by id and then filtered by age, since the age has no index."""
    t = table.c
    oldest = select(t.id, t.started_at, t.finished_at).order_by(t.id).limit(_N).subquery().c
    newest = select(t.id).order_by(t.id.desc()).limit(1).scalar_subquery()
    # A sweep whose process died has no end.
    has_ended = literal(True) if table is sweeps else oldest.finished_at.is_not(None)
    return t.id.in_(select(oldest.id).where(oldest.started_at < _CUT, oldest.id < newest, has_ended))


def _blocks_reopening() -> Any:
    """Whether the row still prevents a new reconnection, and no newer row of the member prevents it for as long."""
    newer = reconnections.alias("newer")
    as_well = select(newer.c.id).where(
        newer.c.member_guid == r.member_guid,
        newer.c.id > r.id,
        newer.c.closed_at >= r.closed_at,
        newer.c.reopen_at >= r.reopen_at,
        # An ended notice prevents only notices.
        or_(newer.c.reason != state_literal("expires_soon"), IS_NOTICE),
    )
    return and_(r.reopen_at > _NOW, _none(as_well))


def _blocks_as_long(newer: Any, older: Any) -> bool:
    """The condition ``as_well`` of :func:`_blocks_reopening`, for two rows of one member."""
    is_as_long = newer.id > older.id and newer.closed_at >= older.closed_at and newer.reopen_at >= older.reopen_at
    return bool(is_as_long and (newer.reason != Reason.EXPIRES_SOON or older.reason == newer.reason))


def _links_that_show() -> Any:
    """A valid link of the user that was made before the row ended, and may show it."""
    return select(k.id).where(k.user_guid == r.user_guid, k.created_at <= r.closed_at, k.expires_at > _NOW)


def _links_that_name() -> Any:
    """A valid link whose message names the row. The message may have left a moment after the row ended."""
    of_row = select(item.notification_id).where(item.reconnection_id == r.id, k.notification_id == item.notification_id)
    return of_row.where(k.expires_at > _NOW)


def _unfinished_messages() -> Any:
    """A message that names the row and has not ended."""
    of_row = select(item.notification_id).where(item.reconnection_id == r.id, n.id == item.notification_id)
    return of_row.where(or_(n.state == state_literal("pending"), n.state == state_literal("sending")))


def _none(of_row: Any) -> Any:
    """Whether there is no such row.

    The plain SQL is ``NOT EXISTS``. PostgreSQL turns that into a join, and may read whole tables for 200 rows.
    """
    return of_row.correlate(reconnections).limit(1).scalar_subquery().is_(None)
