"""The lease of a sync: it is begun or taken over, renewed, and ended. At most one sync is unfinished."""

import asyncio
import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.database import Database
from worker.store.sql.moments import database_now
from worker.store.sql.tables import members, sync_missing, sync_users, syncs
from worker.store.syncs.sync import FAILED, FINISHED, LISTING, Busy, LostSync, Sync

m, s, su, sm = members.c, syncs.c, sync_users.c, sync_missing.c

#: An unfinished sync without progress for this time is given up: its lists are out of date.
STALE = timedelta(days=1)


class Holding:
    """Takes, continues and ends syncs. Every write of a sync is fenced by its epoch; :class:`LostSync` is raised if that has changed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = database.rows
        #: Lets transactions that add to a sync's findings run one by one: a page of users and a batch of members may be ready at once.
        self._turn = asyncio.Lock()

    async def last(self) -> Sync | None:
        """The newest sync, finished or not."""
        return await self._one(select(syncs).order_by(s.id.desc()).limit(1))

    async def last_finished(self) -> Sync | None:
        """The newest sync that finished without failing."""
        return await self._one(select(syncs).where(s.phase == FINISHED).order_by(s.id.desc()).limit(1))

    async def unfinished(self) -> Sync | None:
        """The sync that is under way, or waits to be continued."""
        return await self._one(select(syncs).where(s.unfinished))

    async def _one(self, query: Any) -> Sync | None:
        async def work(connection: AsyncConnection) -> Sync | None:
            row = (await connection.execute(query)).first()
            return None if row is None else _sync(row)

        return await self._database.transaction(work)

    async def is_waiting(self) -> bool:
        """Whether an unfinished sync has no valid lease: its process ended or died."""
        free = or_(s.lease_expires_at.is_(None), s.lease_expires_at < database_now())

        async def work(connection: AsyncConnection) -> bool:
            return await connection.scalar(select(s.id).where(s.unfinished, free)) is not None

        return await self._database.transaction(work)

    async def take(
        self, worker: str, *, seconds: float, now: datetime, begin: bool, dead: str | None = None
    ) -> Sync | None:
        """Lease the unfinished sync or, with ``begin``, a new one if there is none; ``None``: there is nothing to continue.

        ``dead``: the id of a worker that is known to be dead. Raises :class:`Busy` if another worker has the lease.
        """

        async def work(connection: AsyncConnection) -> Sync | None:
            stale = and_(s.unfinished, s.touched_at < now - STALE)
            given_up = {
                "phase": FAILED,
                "unfinished": None,
                "finished_at": now,
                "outcome": "given up: nobody went on with it",
            }
            if (await connection.execute(update(syncs).where(stale).values(given_up))).rowcount:
                await self._clear(connection)
            if begin:
                new = self._rows.insert(syncs).values(started_at=now, touched_at=now, unfinished=True, phase=LISTING)
                await connection.execute(new.on_conflict_do_nothing())
            free = or_(
                s.lease_expires_at.is_(None), s.lease_expires_at < database_now(), s.lease_worker == literal(dead)
            )
            taking = (
                update(syncs)
                .where(s.unfinished, free)
                .values(lease_worker=worker, lease_expires_at=database_now(seconds), epoch=s.epoch + 1, touched_at=now)
                .returning(syncs)
            )
            row = (await connection.execute(taking)).first()
            if row is not None:
                return _sync(row)
            row = (await connection.execute(select(syncs).where(s.unfinished))).first()
            if row is None:
                return None
            raise Busy(row.lease_worker or "somebody", row.lease_expires_at or now)

        return await self._database.transaction(work)

    async def release(self, sync: Sync) -> None:
        """End the lease, so that another process may continue the sync at once."""
        update_sync = update(syncs).where(s.id == sync.id, s.epoch == sync.epoch, s.unfinished)
        await self._database.transaction(
            lambda connection: connection.execute(update_sync.values(lease_expires_at=None))
        )

    async def _touch(
        self, connection: AsyncConnection, sync: Sync, *, seconds: float, now: datetime, **values: Any
    ) -> None:
        """Extend the lease, and write the checkpoint and the findings. Raises :class:`LostSync`."""
        statement = (
            update(syncs)
            .where(s.id == sync.id, s.epoch == sync.epoch, s.unfinished)
            .values(lease_expires_at=database_now(seconds), touched_at=now, found=json.dumps(sync.found), **values)
        )
        if not (await connection.execute(statement)).rowcount:
            raise LostSync

    async def renew(self, sync: Sync, *, seconds: float, now: datetime) -> None:
        """Extend the lease."""
        await self._retried(sync, lambda connection: self._touch(connection, sync, seconds=seconds, now=now))

    async def start_afresh(self, sync: Sync, *, seconds: float, now: datetime) -> None:
        """Delete rows that an earlier sync left behind, before the first page is stored."""

        async def work(connection: AsyncConnection) -> None:
            await self._touch(connection, sync, seconds=seconds, now=now)
            await self._clear(connection)

        await self._database.transaction(work)

    async def _clear(self, connection: AsyncConnection) -> None:
        await connection.execute(delete(sync_users))
        await connection.execute(delete(sync_missing))

    async def known_users(self) -> int:
        """How many users have members that are not gone."""
        return await self._count(select(func.count(m.user_guid.distinct())).where(m.gone_at.is_(None)))

    async def known_members(self) -> int:
        """How many members are not gone."""
        return await self._count(select(func.count()).select_from(members).where(m.gone_at.is_(None)))

    async def missing(self) -> int:
        """How many members are to be checked one by one."""
        return await self._count(select(func.count()).select_from(sync_missing).where(~sm.is_elsewhere))

    async def listed_users(self) -> int:
        """How many users were listed, each counted once."""
        return await self._count(select(func.count()).select_from(sync_users))

    async def done_users(self) -> int:
        """How many listed users are done."""
        return await self._count(select(func.count()).select_from(sync_users).where(su.done_at.is_not(None)))

    async def _count(self, query: Any) -> int:
        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(query) or 0)

        return await self._database.transaction(work)

    async def go_to(self, sync: Sync, phase: str, *, seconds: float, now: datetime) -> None:
        """Enter the next phase."""

        async def work(connection: AsyncConnection) -> None:
            await self._touch(connection, sync, seconds=seconds, now=now, phase=phase)

        await self._database.transaction(work)
        sync.phase = phase

    async def _retried(self, sync: Sync, work: Any) -> Any:
        """Run a transaction that adds to ``sync.found``, one at a time. If it is repeated, it starts from the same figures."""
        async with self._turn:
            before = Counter(sync.found)

            async def repeatable(connection: AsyncConnection) -> Any:
                sync.found.clear()
                sync.found.update(before)
                return await work(connection)

            try:
                return await self._database.transaction(repeatable)
            except BaseException:
                sync.found.clear()
                sync.found.update(before)
                raise

    async def end(self, sync: Sync, phase: str, outcome: str, now: datetime) -> None:
        """End the sync: store how it ended, and delete its listed users and missing members."""
        update_sync = update(syncs).where(s.id == sync.id, s.epoch == sync.epoch, s.unfinished)
        values = {
            "phase": phase,
            "outcome": outcome[:2000],
            "unfinished": None,
            "finished_at": now,
            "touched_at": now,
            "lease_worker": None,
            "lease_expires_at": None,
            "found": json.dumps(sync.found),
        }

        async def work(connection: AsyncConnection) -> None:
            if not (await connection.execute(update_sync.values(values))).rowcount:
                raise LostSync
            await self._clear(connection)

        await self._database.transaction(work)
        sync.phase, sync.outcome, sync.finished_at = phase, outcome, now


def _sync(row: Any) -> Sync:
    values = {name: row._mapping[name] for name in Sync.__struct_fields__}  # noqa: SLF001 - SQLAlchemy's public name for it
    return Sync(**(values | {"found": Counter(json.loads(row.found))}))
