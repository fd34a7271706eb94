"""The steps of a sync, a transaction each."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.list_checks import Position
from worker.store.from_mx.answers import Applied, MxMember, MxUser, says_nothing_new
from worker.store.from_mx.members import MxMembers
from worker.store.from_mx.users import MxUsers
from worker.store.sql.database import Database
from worker.store.sql.tables import members, sync_missing, syncs
from worker.store.syncs.holding import Holding
from worker.store.syncs.statements import Statements
from worker.store.syncs.sync import MOST_ATTEMPTS, MemberChecked, MemberToCheck, Sync, UserRead, UserToRead

m, s, sm = members.c, syncs.c, sync_missing.c


class SyncStore(Holding):
    """Writes MX's answers, together with the checkpoint behind them."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._statements = database.rows.part(Statements)

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
        """Store a page of users and the checkpoint behind it; returns how many are new to this sync (all, if the page was stored already).

        A user whom our tables name by the client's own id keeps that name. The members of ``disabled`` users are not read.
        """

        async def work(connection: AsyncConnection) -> int:
            if await connection.scalar(select(s.taken).where(s.id == sync.id)) == position.taken:
                return len(listed)  # it was committed, and the answer to the commit was lost
            own_ids = await self._statements.own_names(connection, listed)
            our_users = [
                msgspec.structs.replace(user, user_guid=own_ids.get(user.user_guid, user.user_guid)) for user in listed
            ]
            skipped = {own_ids.get(guid, guid) for guid in disabled}
            fresh = await self._statements.add_users(connection, [user.user_guid for user in our_users], skipped, now)
            new_users, emails = await self._rows.part(MxUsers).apply(connection, our_users)
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
        user_reads: Sequence[UserRead],
        *,
        read_at: datetime,
        skip_aggregation: bool,
        seconds: float,
        now: datetime,
    ) -> None:
        """Write MX's answers about the members of these users, and mark the users as done."""

        async def work(connection: AsyncConnection) -> None:
            present = await self._statements.still_there(connection, user_reads)
            answers = [
                member
                for user_read in present
                for member in user_read.members
                if not _is_as_we_have_it(member, user_read.user)
            ]
            applied = await self._rows.part(MxMembers).apply(
                connection, answers, read_at=read_at, now=now, skip_aggregation=skip_aggregation
            )
            await self._statements.add_missing(
                connection,
                [(guid, user_read.user.user_guid) for user_read in present for guid in user_read.missing],
                [(guid, "") for guid in applied.of_others],
            )
            await self._statements.finish_users(connection, present, now)
            for user_read in present:
                sync.found.update(user_read.noted)
                gives_up = user_read.failed and user_read.counts and user_read.user.attempts + 1 >= MOST_ATTEMPTS
                sync.found.update(unread=int(gives_up))
            sync.found.update(members=sum(len(user_read.members) for user_read in present))
            _note(sync.found, applied)
            await self._touch(connection, sync, seconds=seconds, now=now)

        await self._retried(sync, work)

    async def add_members_of_unlisted_users(self, sync: Sync, *, seconds: float, now: datetime) -> None:
        """Add members of users whom MX did not list to those to be checked, page by page, so that memory stays flat."""
        last = ""
        while True:

            async def work(connection: AsyncConnection, after: str = last) -> str | None:
                await self._touch(connection, sync, seconds=seconds, now=now)
                return await self._statements.add_unlisted(connection, after)

            end = await self._database.transaction(work)
            if end is None:
                return
            last = end

    async def to_check(self, n: int, *, after: int) -> list[MemberToCheck]:
        """Up to ``n`` members to be read one by one, in order of their ids and from ``after`` on."""
        query = (
            select(sm.id, sm.member_guid, sm.user_guid, sm.attempts, m.moved_to)
            .outerjoin(members, m.member_guid == sm.member_guid)
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
        """Write MX's answers about members that it did not list. ``sync``: ``None`` if no sync of all users is under way."""

        async def work(connection: AsyncConnection) -> None:
            answers = [each.answer for each in checked if each.answer is not None]
            applied = await self._rows.part(MxMembers).apply(
                connection, answers, read_at=read_at, now=now, skip_aggregation=skip_aggregation
            )
            gone_guids = [each.member.member_guid for each in checked if each.gone]
            found.update(
                gone=await self._rows.part(MxMembers).mark_gone(connection, gone_guids, now), unlisted=len(answers)
            )
            _note(found, applied)
            if sync is None:
                return
            checked_ids = [each.member.id for each in checked if each.gone or each.answer is not None]
            failed = [each.member for each in checked if not each.gone and each.answer is None and each.counts]
            await self._statements.finish_checks(connection, checked_ids, [member.id for member in failed])
            found.update(unchecked=sum(member.attempts + 1 >= MOST_ATTEMPTS for member in failed))
            await self._touch(connection, sync, seconds=seconds, now=now)

        if sync is None:
            await self._database.transaction(work)
        else:
            await self._retried(sync, work)

    async def apply_one(
        self,
        answers: Sequence[MxMember],
        *,
        read_at: datetime,
        now: datetime,
        skip_aggregation: bool,
        found: Counter[str],
    ) -> None:
        """Write MX's answers about single members."""

        async def work(connection: AsyncConnection) -> Applied:
            return await self._rows.part(MxMembers).apply(
                connection, answers, read_at=read_at, now=now, skip_aggregation=skip_aggregation
            )

        _note(found, await self._database.transaction(work))
        found.update(members=len(answers))

    async def members_of(self, user_guid: str) -> dict[str, str | None]:
        """The user's members that are not gone: each GUID, and the GUID that it moved to."""

        async def work(connection: AsyncConnection) -> dict[str, str | None]:
            query = select(m.member_guid, m.moved_to).where(m.user_guid == user_guid, m.gone_at.is_(None))
            return {row[0]: row[1] for row in await connection.execute(query)}

        return await self._database.transaction(work)

    async def user_of(self, member_guid: str) -> str | None:
        """The user of a member of ours."""

        async def work(connection: AsyncConnection) -> str | None:
            user_guid: str | None = await connection.scalar(select(m.user_guid).where(m.member_guid == member_guid))
            return user_guid

        return await self._database.transaction(work)


def _is_as_we_have_it(answer: MxMember, user: UserToRead) -> bool:
    """Whether there is nothing to write: our row has the same values, and no reconnection of the member is concerned."""
    row = user.known.get(answer.member_guid)
    return row is not None and not row.concerns_reconnection and says_nothing_new(answer, row)


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
