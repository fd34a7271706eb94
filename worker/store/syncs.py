"""The owner of ``syncs``, ``sync_users`` and ``sync_missing``: one listing of all users and members, its checkpoint and what is left of it.

The database is the queue: a page of users is stored together with the checkpoint behind it, then each user's members are read and
written together with the mark that the user is done. So whoever goes on with a killed sync asks MX only for what was being asked.

One sync is unfinished at most (``syncs.unfinished`` is unique), and one worker holds it: lease and epoch as everywhere.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.errors import WorkerError
from worker.policy.listing import Position
from worker.store.mx_members import Applied, MxMember, MxUser, apply_members, apply_users, mark_gone
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, sync_missing, sync_users, syncs, users

m, s, su, sm, u = members.c, syncs.c, sync_users.c, sync_missing.c, users.c

LISTING, CHECKING, FINISHED, FAILED = "listing", "checking", "finished", "failed"
#: An unfinished sync that nobody went on with for so long is given up: its lists are no longer true.
STALE = timedelta(days=1)
#: Rows of one statement where a sync goes through a whole table.
PAGE = 10_000
#: How often the members of a user, or one member, are asked for before a sync goes on without them.
MOST_ATTEMPTS = 3

#: The words of ``found``, in the order in which they are told.
FOUND: Mapping[str, str] = {
    "users": "users",
    "members": "members",
    "new_users": "new users",
    "new_members": "new members",
    "changed": "changed",
    "back": "back",
    "moved": "moved to another GUID",
    "gone": "gone",
    "emails": "addresses taken over",
    "managed": "managed by a partner and skipped",
    "disabled": "disabled users, whose members were skipped",
    "other_user": "listed for another user than yours, and left alone",
    "overtaken": "back before MX's answer arrived",
    "repeated": "users listed twice",
    "unlisted": "not listed, though MX knows them",
    "unreadable": "entries that name nobody",
    "contradicted": "users whose list contradicts itself",
    "unread": "users whose members could not be read",
    "unchecked": "not listed, and could not be read",
}


class Busy(WorkerError):  # noqa: N818 - it names the state that the operator sees
    """Another process holds the unfinished sync."""

    def __init__(self, worker: str, until: datetime) -> None:
        super().__init__(
            f"sync: {worker} is at it, until {until:%H:%M:%S} UTC at least; `reconnect status` shows how far it is"
        )
        self.worker = worker
        self.until = until


class LostSync(WorkerError):  # noqa: N818
    """The lease of the sync ran out, and another process took it."""

    def __init__(self) -> None:
        super().__init__("sync: another process took over, since this one was too slow; it goes on there")


class Sync(msgspec.Struct, kw_only=True):
    """A sync, as a row of ``syncs``."""

    id: int
    started_at: datetime
    touched_at: datetime
    finished_at: datetime | None
    phase: str
    outcome: str | None
    lease_worker: str | None
    lease_expires_at: datetime | None
    epoch: int
    taken: int
    per_page: int | None
    first_total: int | None
    total: int | None
    has_all_users: bool
    found: Counter[str]

    @property
    def summary(self) -> str:
        """What it found, in one line."""
        return told(self.found)

    @property
    def says(self) -> str:
        """How it ended and what it found, or how far it is, in one line."""
        if self.phase == FINISHED:
            return f"ended {self.finished_at:%Y-%m-%d %H:%M} UTC, {self.summary}"
        if self.phase == FAILED:
            return f"failed {self.finished_at:%Y-%m-%d %H:%M} UTC, {self.outcome}"
        done = f"{self.found.get('users', 0)} of {self.total} users listed" if self.total else "no page of users yet"
        return f"unfinished: {done}, {self.found.get('members', 0)} members; last progress {self.touched_at:%Y-%m-%d %H:%M} UTC"


def told(found: Mapping[str, int]) -> str:
    """Figures of ``found`` as one line: ``100 users, 150 members, 3 new members, 2 changed``; ``nothing changed`` where nothing did."""
    always = ("users", "members")
    parts = [f"{found.get(word, 0)} {says}" for word, says in FOUND.items() if word in always or found.get(word, 0)]
    if not any(found.get(word, 0) for word in CHANGES):
        parts.append("nothing changed")
    return ", ".join(parts)


#: The words that stand for rows written.
CHANGES = ("new_users", "new_members", "changed", "back", "gone", "emails")


class UserToRead(msgspec.Struct, frozen=True, kw_only=True):
    """A user whose members are to be read, and those that we have."""

    id: int
    user_guid: str
    attempts: int
    #: Our rows of this user: each GUID, and the one that MX carries it on under.
    known: Mapping[str, str | None]


class UserRead(msgspec.Struct, frozen=True, kw_only=True):
    """What MX said of a user's members."""

    user: UserToRead
    members: Sequence[MxMember] = ()
    #: Our rows that it lists no more.
    missing: Collection[str] = ()
    #: It could not be read; whether that counts as one of its attempts.
    failed: bool = False
    counts: bool = True
    #: Words of ``found``.
    noted: Mapping[str, int] = {}


class MemberToCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A member that MX's lists lack."""

    id: int
    member_guid: str
    user_guid: str
    attempts: int


class MemberChecked(msgspec.Struct, frozen=True, kw_only=True):
    """What MX said when it was asked for this member alone."""

    member: MemberToCheck
    said: MxMember | None = None
    gone: bool = False
    counts: bool = True


class SyncStore:
    """Takes, continues and ends syncs. Whatever a holder writes is fenced by its epoch: :class:`LostSync` is raised if that passed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = rows = database.rows
        self._statements = rows.part(_Statements)
        #: Of transactions that write what a sync found: a page of users and a batch of members may be ready at the same time.
        self._turn = asyncio.Lock()

    async def last(self) -> Sync | None:
        """The newest sync, finished or not."""
        return await self._one(select(syncs).order_by(s.id.desc()).limit(1))

    async def last_finished(self) -> Sync | None:
        """The newest one that came to its end well."""
        return await self._one(select(syncs).where(s.phase == FINISHED).order_by(s.id.desc()).limit(1))

    async def unfinished(self) -> Sync | None:
        """The one that is under way, or waits for somebody to go on with it."""
        return await self._one(select(syncs).where(s.unfinished))

    async def _one(self, query: Any) -> Sync | None:
        async def work(connection: AsyncConnection) -> Sync | None:
            row = (await connection.execute(query)).first()
            return None if row is None else _sync(row)

        return await self._database.transaction(work)

    async def is_waiting(self) -> bool:
        """Whether an unfinished sync has no holder: its process ended or died."""
        free = or_(s.lease_expires_at.is_(None), s.lease_expires_at < database_now())

        async def work(connection: AsyncConnection) -> bool:
            return await connection.scalar(select(s.id).where(s.unfinished, free)) is not None

        return await self._database.transaction(work)

    async def take(
        self, worker: str, *, seconds: float, now: datetime, begin: bool, dead: str | None = None
    ) -> Sync | None:
        """Hold the unfinished sync, or with ``begin`` a new one if there is none; ``None``: there is nothing to go on with.

        ``dead``: a holder of whom it is known that it is dead. Raises :class:`Busy` if another one holds it.
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

    async def let_go(self, sync: Sync) -> None:
        """Others may go on with it at once."""
        mine = update(syncs).where(s.id == sync.id, s.epoch == sync.epoch, s.unfinished)
        await self._database.transaction(lambda connection: connection.execute(mine.values(lease_expires_at=None)))

    async def _touch(
        self, connection: AsyncConnection, sync: Sync, *, seconds: float, now: datetime, **values: Any
    ) -> None:
        """Extend the lease, write the checkpoint and what was found. Raises :class:`LostSync`."""
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
        """Forget what an earlier sync left behind, before the first page is stored."""

        async def work(connection: AsyncConnection) -> None:
            await self._touch(connection, sync, seconds=seconds, now=now)
            await self._clear(connection)

        await self._database.transaction(work)

    async def _clear(self, connection: AsyncConnection) -> None:
        await connection.execute(delete(sync_users))
        await connection.execute(delete(sync_missing))

    async def known_users(self) -> int:
        """How many users have members of which MX did not say that they are gone."""
        return await self._count(select(func.count(m.user_guid.distinct())).where(m.gone_at.is_(None)))

    async def known_members(self) -> int:
        """How many members there are of which MX did not say that they are gone."""
        return await self._count(select(func.count()).select_from(members).where(m.gone_at.is_(None)))

    async def missing(self) -> int:
        """How many members are to be checked one by one."""
        return await self._count(select(func.count()).select_from(sync_missing).where(~sm.is_elsewhere))

    async def listed_users(self) -> int:
        """How many users were listed, each counted once."""
        return await self._count(select(func.count()).select_from(sync_users))

    async def done_users(self) -> int:
        """How many of them are done."""
        return await self._count(select(func.count()).select_from(sync_users).where(su.done_at.is_not(None)))

    async def _count(self, query: Any) -> int:
        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(query) or 0)

        return await self._database.transaction(work)

    async def store_users(
        self,
        sync: Sync,
        position: Position,
        listed: Sequence[MxUser],
        *,
        disabled: Collection[str],
        unreadable: int,
        seconds: float,
        now: datetime,
    ) -> int:
        """Store a page of users and the checkpoint behind it; how many of them are new to this sync (all, if it was stored already).

        A user whom our tables name by the client's own id keeps that name. The members of ``disabled`` ones are not read.
        """

        async def work(connection: AsyncConnection) -> int:
            if await connection.scalar(select(s.taken).where(s.id == sync.id)) == position.taken:
                return len(listed)  # it was committed, and the answer to that was lost
            named = await self._statements.own_names(connection, listed)
            ours = [
                msgspec.structs.replace(user, user_guid=named.get(user.user_guid, user.user_guid)) for user in listed
            ]
            skipped = {named.get(guid, guid) for guid in disabled}
            fresh = await self._statements.add_users(connection, [user.user_guid for user in ours], skipped, now)
            new_users, emails = await apply_users(connection, self._rows, ours)
            sync.found.update(
                users=len(fresh),
                repeated=len(listed) - len(fresh),
                unreadable=unreadable,
                disabled=len(skipped & fresh),
                new_users=new_users,
                emails=emails,
            )
            await self._touch(
                connection,
                sync,
                seconds=seconds,
                now=now,
                taken=position.taken,
                per_page=position.per_page,
                first_total=position.first_total,
                total=position.total,
                has_all_users=position.ended,
            )
            return len(fresh)

        stored: int = await self._retried(sync, work)
        return stored

    async def to_read(self, n: int, *, after: int) -> list[UserToRead]:
        """Up to ``n`` users whose members are to be read, in order of their ids and from ``after`` on."""
        return await self._database.transaction(lambda connection: self._statements.to_read(connection, n, after))

    async def settle_users(
        self,
        sync: Sync,
        read: Sequence[UserRead],
        *,
        read_at: datetime,
        skip_aggregation: bool,
        seconds: float,
        now: datetime,
    ) -> None:
        """Write what MX said of the members of these users, and that they are done."""

        async def work(connection: AsyncConnection) -> None:
            said = [member for each in read for member in each.members]
            applied = await apply_members(
                connection, self._rows, said, read_at=read_at, now=now, skip_aggregation=skip_aggregation
            )
            await self._statements.add_missing(
                connection,
                [(guid, each.user.user_guid) for each in read for guid in each.missing],
                [(guid, "") for guid in applied.of_others],
            )
            await self._statements.finish_users(connection, read, now)
            for each in read:
                sync.found.update(each.noted)
                gives_up = each.failed and each.counts and each.user.attempts + 1 >= MOST_ATTEMPTS
                sync.found.update(unread=int(gives_up))
            sync.found.update(members=len(said))
            _note(sync.found, applied)
            await self._touch(connection, sync, seconds=seconds, now=now)

        await self._retried(sync, work)

    async def add_members_of_unlisted_users(self, sync: Sync, *, seconds: float, now: datetime) -> None:
        """Members of users whom MX did not list are to be checked as well: page by page, so that memory stays flat."""
        last = ""
        while True:

            async def work(connection: AsyncConnection, after: str = last) -> str | None:
                await self._touch(connection, sync, seconds=seconds, now=now)
                return await self._statements.add_unlisted(connection, after)

            end = await self._database.transaction(work)
            if end is None:
                return
            last = end

    async def go_to(self, sync: Sync, phase: str, *, seconds: float, now: datetime) -> None:
        """Enter the next phase."""

        async def work(connection: AsyncConnection) -> None:
            await self._touch(connection, sync, seconds=seconds, now=now, phase=phase)

        await self._database.transaction(work)
        sync.phase = phase

    async def to_check(self, n: int, *, after: int) -> list[MemberToCheck]:
        """Up to ``n`` members to be read one by one, in order of their ids and from ``after`` on."""
        query = (
            select(sm.id, sm.member_guid, sm.user_guid, sm.attempts)
            .where(~sm.is_elsewhere, sm.attempts < MOST_ATTEMPTS, sm.id > after)
            .order_by(sm.id)
            .limit(n)
        )

        async def work(connection: AsyncConnection) -> list[MemberToCheck]:
            return [MemberToCheck(**row) for row in (await connection.execute(query)).mappings()]

        return await self._database.transaction(work)

    async def settle_checks(
        self,
        sync: Sync | None,
        checked: Sequence[MemberChecked],
        *,
        read_at: datetime,
        skip_aggregation: bool,
        seconds: float,
        now: datetime,
        found: Counter[str],
    ) -> None:
        """Write what MX said of members that it did not list. ``sync``: ``None`` where none of the whole list is under way."""

        async def work(connection: AsyncConnection) -> None:
            said = [each.said for each in checked if each.said is not None]
            applied = await apply_members(
                connection, self._rows, said, read_at=read_at, now=now, skip_aggregation=skip_aggregation
            )
            gone = [each.member.member_guid for each in checked if each.gone]
            found.update(gone=await mark_gone(connection, self._rows, gone, now), unlisted=len(said))
            _note(found, applied)
            if sync is None:
                return
            done = [each.member.id for each in checked if each.gone or each.said is not None]
            failed = [each.member for each in checked if not each.gone and each.said is None and each.counts]
            await self._statements.finish_checks(connection, done, [member.id for member in failed])
            found.update(unchecked=sum(member.attempts + 1 >= MOST_ATTEMPTS for member in failed))
            await self._touch(connection, sync, seconds=seconds, now=now)

        if sync is None:
            await self._database.transaction(work)
        else:
            await self._retried(sync, work)

    async def _retried(self, sync: Sync, work: Any) -> Any:
        """Run a transaction that adds to ``sync.found``: alone, and from the same figures each time, should it run more than once."""
        async with self._turn:
            before = Counter(sync.found)

            async def again(connection: AsyncConnection) -> Any:
                sync.found.clear()
                sync.found.update(before)
                return await work(connection)

            try:
                return await self._database.transaction(again)
            except BaseException:
                sync.found.clear()
                sync.found.update(before)
                raise

    async def apply_one(
        self, said: Sequence[MxMember], *, read_at: datetime, now: datetime, skip_aggregation: bool, found: Counter[str]
    ) -> None:
        """Write what MX said of single members."""

        async def work(connection: AsyncConnection) -> Applied:
            return await apply_members(
                connection, self._rows, said, read_at=read_at, now=now, skip_aggregation=skip_aggregation
            )

        _note(found, await self._database.transaction(work))
        found.update(members=len(said))

    async def members_of(self, user_guid: str) -> dict[str, str | None]:
        """Our rows of a user of which MX did not say that they are gone: each GUID, and the one that it moved to."""

        async def work(connection: AsyncConnection) -> dict[str, str | None]:
            query = select(m.member_guid, m.moved_to).where(m.user_guid == user_guid, m.gone_at.is_(None))
            return {row[0]: row[1] for row in await connection.execute(query)}

        return await self._database.transaction(work)

    async def user_of(self, member_guid: str) -> str | None:
        """The user of a member of ours."""

        async def work(connection: AsyncConnection) -> str | None:
            found: str | None = await connection.scalar(select(m.user_guid).where(m.member_guid == member_guid))
            return found

        return await self._database.transaction(work)

    async def end(self, sync: Sync, phase: str, outcome: str, now: datetime) -> None:
        """It is over: put on record how, and forget what it was told of."""
        mine = update(syncs).where(s.id == sync.id, s.epoch == sync.epoch, s.unfinished)
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
            if not (await connection.execute(mine.values(values))).rowcount:
                raise LostSync
            await self._clear(connection)

        await self._database.transaction(work)
        sync.phase, sync.outcome, sync.finished_at = phase, outcome, now


def _sync(row: Any) -> Sync:
    values = {name: row._mapping[name] for name in Sync.__struct_fields__}  # noqa: SLF001 - SQLAlchemy's public name for it
    return Sync(**(values | {"found": Counter(json.loads(row.found))}))


def _note(found: Counter[str], applied: Applied) -> None:
    found.update(
        new_members=applied.inserted,
        changed=applied.changed,
        back=applied.back,
        moved=applied.moved,
        managed=applied.managed,
        other_user=len(applied.of_others),
        overtaken=applied.overtaken,
    )


class _Statements:
    """Statements about many rows, made once a dialect."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        ids = rows.table("given", {"own_id": Text()})
        self._own_names = select(u.user_guid).join(ids, u.user_guid == ids.c.own_id)
        listed = rows.table("given", {"user_guid": Text(), "done_at": Moment()})
        self._add_users = (
            rows.insert(sync_users)
            .from_select(["user_guid", "done_at"], select(listed).where(listed.c.user_guid.is_not(None)))
            .on_conflict_do_nothing(index_elements=["user_guid"])
            .returning(su.user_guid)
        )
        after, n = bindparam("after", type_=BigInteger()), bindparam("n", type_=Integer())
        pending = (
            select(su.id, su.user_guid, su.attempts).where(su.done_at.is_(None), su.id > after).order_by(su.id).limit(n)
        ).subquery()
        self._to_read = (
            select(pending, m.member_guid, m.moved_to)
            .outerjoin(members, and_(m.user_guid == pending.c.user_guid, m.gone_at.is_(None)))
            .order_by(pending.c.id)
        )
        done = rows.table("given", {"id": BigInteger(), "attempts": Integer(), "done_at": Moment()}).c
        self._finish_users = (
            update(sync_users).where(su.id == done.id).values(attempts=done.attempts, done_at=done.done_at)
        )
        lacking = rows.table("given", {"member_guid": Text(), "user_guid": Text()})
        self._add_missing = (
            rows.insert(sync_missing)
            .from_select(["member_guid", "user_guid"], select(lacking).where(lacking.c.member_guid.is_not(None)))
            .on_conflict_do_nothing(index_elements=["member_guid"])
        )
        elsewhere = rows.insert(sync_missing).from_select(
            ["member_guid", "user_guid", "is_elsewhere"],
            select(lacking, literal(True)).where(lacking.c.member_guid.is_not(None)),
        )
        self._add_elsewhere = elsewhere.on_conflict_do_update(
            index_elements=["member_guid"], set_={"is_elsewhere": True}
        )
        gone = rows.table("given", {"id": BigInteger()})
        self._finish_checks = delete(sync_missing).where(rows.among(sm.id, select(gone.c.id)))
        self._count_attempt = update(sync_missing).where(sm.id == gone.c.id).values(attempts=sm.attempts + 1)
        from_here = bindparam("from_here", type_=String())
        unlisted = and_(m.gone_at.is_(None), ~exists().where(su.user_guid == m.user_guid))
        walk = m.member_guid > from_here
        self._edge = select(m.member_guid).where(walk).order_by(m.member_guid).limit(1).offset(PAGE - 1)
        page = select(m.member_guid, m.user_guid).where(walk, unlisted)
        to_here = m.member_guid <= bindparam("to_here", type_=String())
        self._add_unlisted = {
            is_last: rows.insert(sync_missing)
            .from_select(["member_guid", "user_guid"], page if is_last else page.where(to_here))
            .on_conflict_do_nothing(index_elements=["member_guid"])
            for is_last in (True, False)
        }

    def _given(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        return {"given": self._rows.encode(rows)}

    async def own_names(self, connection: AsyncConnection, listed: Sequence[MxUser]) -> dict[str, str]:
        """For users that our tables name by the client's own id: the GUID, and that id."""
        by_id = {user.own_id: user.user_guid for user in listed if user.own_id is not None}
        if not by_id:
            return {}
        given = self._given({"own_id": own} for own in sorted(by_id))
        return {by_id[own]: own for own in (await connection.execute(self._own_names, given)).scalars()}

    async def add_users(
        self, connection: AsyncConnection, guids: Iterable[str], done: Collection[str], now: datetime
    ) -> set[str]:
        unique = dict.fromkeys(guids)
        if not unique:
            return set()
        given = self._given({"user_guid": guid, "done_at": now if guid in done else None} for guid in unique)
        return set((await connection.execute(self._add_users, given)).scalars())

    async def to_read(self, connection: AsyncConnection, n: int, after: int) -> list[UserToRead]:
        found: dict[int, UserToRead] = {}
        known: dict[int, dict[str, str | None]] = {}
        for id_, user_guid, attempts, member, moved in await connection.execute(
            self._to_read, {"n": n, "after": after}
        ):
            if id_ not in found:
                theirs = known[id_] = {}
                found[id_] = UserToRead(id=id_, user_guid=user_guid, attempts=attempts, known=theirs)
            if member is not None:
                known[id_][member] = moved
        return list(found.values())

    async def finish_users(self, connection: AsyncConnection, read: Sequence[UserRead], now: datetime) -> None:
        rows = []
        for each in read:
            attempts = each.user.attempts + (each.failed and each.counts)
            is_done = not each.failed or attempts >= MOST_ATTEMPTS
            if is_done or attempts != each.user.attempts:
                rows.append({"id": each.user.id, "attempts": attempts, "done_at": now if is_done else None})
        if rows:
            await connection.execute(self._finish_users, self._given(sorted(rows, key=lambda row: row["id"])))

    async def add_missing(
        self, connection: AsyncConnection, missing: Sequence[tuple[str, str]], elsewhere: Sequence[tuple[str, str]]
    ) -> None:
        for statement, pairs in ((self._add_missing, missing), (self._add_elsewhere, elsewhere)):
            if pairs:
                rows = [{"member_guid": guid, "user_guid": user} for guid, user in sorted(dict(pairs).items())]
                await connection.execute(statement, self._given(rows))

    async def finish_checks(self, connection: AsyncConnection, done: Sequence[int], failed: Sequence[int]) -> None:
        for statement, ids in ((self._finish_checks, done), (self._count_attempt, failed)):
            if ids:
                await connection.execute(statement, self._given({"id": id_} for id_ in sorted(ids)))

    async def add_unlisted(self, connection: AsyncConnection, after: str) -> str | None:
        """Add what lacks of one page of members; returns where the next page begins, ``None`` if there is none."""
        end: str | None = await connection.scalar(self._edge, {"from_here": after})
        given = {"from_here": after} | ({} if end is None else {"to_here": end})
        await connection.execute(self._add_unlisted[end is None], given)
        return end
