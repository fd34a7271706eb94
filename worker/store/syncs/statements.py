"""Statements of a sync about many rows, in the transaction of the caller."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Text, and_, bindparam, delete, exists, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.from_mx.answers import OUR_MEMBER, MxUser
from worker.store.reconnections.transitions import blocks_as_gone
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, sync_missing, sync_users, users
from worker.store.syncs.sync import MOST_ATTEMPTS, KnownMember, UserRead, UserToRead

m, r, su, sm, u = members.c, reconnections.c, sync_users.c, sync_missing.c, users.c

#: Rows of one statement when a sync reads a whole table.
PAGE = 10_000


class Statements:
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
        # Two conditions: the small index of open reconnections serves the first.
        is_open, rests = (
            exists().where(r.member_guid == m.member_guid, condition)
            for condition in (r.closed_at.is_(None), blocks_as_gone())
        )
        self._to_read = (
            select(pending, *OUR_MEMBER, or_(is_open, rests))
            .outerjoin(members, and_(m.user_guid == pending.c.user_guid, m.gone_at.is_(None)))
            .order_by(pending.c.id)
        )
        finished = rows.table("given", {"id": BigInteger(), "attempts": Integer(), "done_at": Moment()}).c
        self._finish_users = (
            update(sync_users).where(su.id == finished.id).values(attempts=finished.attempts, done_at=finished.done_at)
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
        checked = rows.table("given", {"id": BigInteger()})
        self._finish_checks = delete(sync_missing).where(rows.among(sm.id, select(checked.c.id)))
        self._count_attempt = update(sync_missing).where(sm.id == checked.c.id).values(attempts=sm.attempts + 1)
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
        """The client's own id by the GUID, for users that our tables name by that id."""
        by_id = {user.own_id: user.user_guid for user in listed if user.own_id is not None}
        if not by_id:
            return {}
        given = self._given({"own_id": own_id} for own_id in sorted(by_id))
        return {by_id[own_id]: own_id for own_id in (await connection.execute(self._own_names, given)).scalars()}

    async def add_users(
        self, connection: AsyncConnection, guids: Iterable[str], done_guids: Collection[str], now: datetime
    ) -> set[str]:
        unique = dict.fromkeys(guids)
        if not unique:
            return set()
        given = self._given({"user_guid": guid, "done_at": now if guid in done_guids else None} for guid in unique)
        return set((await connection.execute(self._add_users, given)).scalars())

    async def to_read(self, connection: AsyncConnection, n: int, after: int) -> list[UserToRead]:
        users_to_read: dict[int, UserToRead] = {}
        known: dict[str, KnownMember] = {}
        names = KnownMember.__struct_fields__
        for id_, user_guid, attempts, *member in await connection.execute(self._to_read, {"n": n, "after": after}):
            if id_ not in users_to_read:
                known = {}
                users_to_read[id_] = UserToRead(id=id_, user_guid=user_guid, attempts=attempts, known=known)
            if member[0] is not None:
                known[member[0]] = KnownMember(**dict(zip(names, member, strict=True)))
        return list(users_to_read.values())

    async def still_there(self, connection: AsyncConnection, read: Sequence[UserRead]) -> list[UserRead]:
        """Those whose user was not erased meanwhile. They are locked, so that they are not erased before the transaction ends."""
        ids = [each.user.id for each in read]
        query = select(su.id).where(su.id.in_(ids)).order_by(su.id).with_for_update(key_share=True)
        present_ids = set((await connection.execute(query)).scalars()) if ids else set()
        return [each for each in read if each.user.id in present_ids]

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

    async def finish_checks(
        self, connection: AsyncConnection, checked_ids: Sequence[int], failed_ids: Sequence[int]
    ) -> None:
        for statement, ids in ((self._finish_checks, checked_ids), (self._count_attempt, failed_ids)):
            if ids:
                await connection.execute(statement, self._given({"id": id_} for id_ in sorted(ids)))

    async def add_unlisted(self, connection: AsyncConnection, after: str) -> str | None:
        """Add the members of one page whose users MX did not list; returns where the next page begins, ``None`` if there is none."""
        end: str | None = await connection.scalar(self._edge, {"from_here": after})
        parameters = {"from_here": after} | ({} if end is None else {"to_here": end})
        await connection.execute(self._add_unlisted[end is None], parameters)
        return end
