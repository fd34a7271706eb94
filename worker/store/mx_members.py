"""Writes MX's answers about users and members into ``users`` and ``members``: a batch in one transaction, and only what differs.

Columns that only the application knows are not touched: locale, time zone, channel, every ``token_*``, a name of the institution, an address
unless it is empty. Exception: where MX's answer closes a reconnection as `reconnected`, the dates of the token that it disproves are
cleared, as in verify (``store/members.py``).

===================================== =================================================================================
MX says                               what becomes of it
===================================== =================================================================================
a member that we do not have          it is inserted, and so is its user
status, OAuth flag, institution code  they go into the row; what MX leaves out keeps its value
an error code                         it goes into the row. MX names none although it could: 2004 and 2005 are cleared
another GUID than the row has         ``moved_to`` of the row, and of its open reconnection; the row keeps its GUID
a member of which it had said 404     ``gone_at`` is cleared. If that 404 had ended a reconnection as `gone`, a sweep may open another
well again, a reconnection is open    closed as `reconnected` by the rule of verify (``policy/recovery.py``). A claimed
                                      one is left to its worker, which asks MX as well
another user than our row has         nothing: the row is kept, and counted
managed by a partner                  nothing: it is counted
asked for before a reconnection ended  nothing: the answer is out of date
===================================== =================================================================================
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Text, bindparam, case, func, null, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.recovery import is_back
from worker.policy.selection import Reason
from worker.policy.states import Mover, ReconnectionState
from worker.store.members import Well
from worker.store.mx_answers import OUR_MEMBER, WRITTEN, Applied, MxMember, MxUser, OurMember, difference, first_of_each
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconnections.changes import Change, close
from worker.store.reconnections.moving import Moving
from worker.store.reconnections.transitions import Transitions, rests_as_gone
from worker.store.sql.application import plain_text
from worker.store.sql.moments import NEVER, Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, users

m, r, u = members.c, reconnections.c, users.c
_R = ReconnectionState

#: States in which an answer of MX closes a reconnection here. `leased` belongs to the worker that has claimed it.
_CLOSABLE = frozenset({_R.DUE, _R.READY, _R.NOTIFIED})


async def apply_members(
    connection: AsyncConnection,
    rows: Rows,
    answers: Iterable[MxMember],
    *,
    read_at: datetime,
    now: datetime,
    skip_aggregation: bool = False,
) -> Applied:
    """Write what MX said of these members, in the caller's transaction, with a few statements. Rows that do not differ are not written.

    ``read_at``: a moment before the first of them was asked for, by the database's clock. ``skip_aggregation``:
    ``MX_SKIP_AGGREGATION``. If MX names one member twice, the first answer counts.
    """
    return await rows.part(MxMembers).apply(
        connection, answers, read_at=read_at, now=now, skip_aggregation=skip_aggregation
    )


async def apply_users(connection: AsyncConnection, rows: Rows, listed: Iterable[MxUser]) -> tuple[int, int]:
    """Insert new users, and fill empty addresses; returns how many of each."""
    return await rows.part(MxMembers).apply_users(connection, listed)


async def mark_gone(connection: AsyncConnection, rows: Rows, member_guids: Collection[str], now: datetime) -> int:
    """MX answered 404 for these members: set ``gone_at``, and end their open reconnections as `gone`. Returns how many rows were written."""
    return await rows.part(MxMembers).mark_gone(connection, member_guids, now)


class _Open(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection that is open, that ended after MX was asked, or that ended as `gone` by a 404 and keeps a sweep from opening another."""

    id: int
    member_guid: str
    state: str
    epoch: int
    reason: str
    broken_since: datetime
    closed_at: datetime | None


class MxMembers:
    """The statements of this module, made once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._transitions = rows.part(Transitions)
        self._moving = rows.part(Moving)
        self._notifications = rows.part(NotificationTransitions)
        guids = rows.table("given", {"guid": Text()})
        row = OUR_MEMBER
        self._by_guid = select(guids.c.guid.label("answered"), *row).join(guids, m.member_guid == guids.c.guid)
        # Two statements: an OR over two columns would read the whole table.
        moved = m.moved_to == guids.c.guid
        self._by_new_guid = (
            select(guids.c.guid.label("answered"), *row).join(guids, moved).where(m.moved_to.is_not(None))
        )
        self._moved_before = (
            select(r.moved_to, r.member_guid).join(guids, r.moved_to == guids.c.guid).where(r.moved_to.is_not(None))
        )
        self._about = (
            select(*(r[name] for name in _Open.__struct_fields__))
            .join(guids, r.member_guid == guids.c.guid)
            .where(or_(r.closed_at.is_(None), r.closed_at >= bindparam("read_at", type_=Moment()), rests_as_gone()))
        )
        self._update = _update(rows)
        self._insert = _insert(rows)
        self._insert_users = (
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
        self._mark_gone = (
            update(members)
            .where(m.member_guid == guids.c.guid, m.gone_at.is_(None))
            .values(gone_at=bindparam("now", type_=Moment()))
            .returning(m.member_guid)
        )

    async def apply(
        self,
        connection: AsyncConnection,
        answers: Iterable[MxMember],
        *,
        read_at: datetime,
        now: datetime,
        skip_aggregation: bool,
    ) -> Applied:
        """See :func:`apply_members`."""
        first, counts = first_of_each(answers)
        if not first:
            return counts
        targets = await self._targets(connection, first)
        unknown = [answer for answer in first if not targets.get(answer.member_guid)]
        inserted = await self._insert_unknown(connection, unknown)

        pairs: dict[str, tuple[MxMember, OurMember]] = {}
        of_others = []
        for answer in first:
            for row in targets.get(answer.member_guid, ()):
                if row.user_guid != answer.user_guid:
                    of_others.append(row.member_guid)
                else:
                    pairs[row.member_guid] = (answer, row)
        about = await self._reconnections(connection, pairs, read_at)
        overtaken = {
            guid
            for guid, found in about.items()
            if any(each.closed_at is not None and each.closed_at >= read_at for each in found)
        }
        back = await self._close(connection, pairs, about, overtaken, now=now, skip_aggregation=skip_aggregation)
        again = {
            each.id: guid
            for guid, found in about.items()
            for each in found
            if each.closed_at is not None and guid not in overtaken
        }
        await self._transitions.know_again(connection, again)
        differing = []
        moves = {}
        for guid in sorted(pairs.keys() - overtaken):  # the order in which every transaction locks them
            answer, row = pairs[guid]
            if (change := difference(answer, row)) is not None:
                differing.append(change)
                if change["moved_to"] is not None and change["moved_to"] != row.moved_to:
                    moves[guid] = answer.member_guid
        if differing:
            await connection.execute(self._update, {"given": self._rows.encode(differing)})
        await self._moving.note(connection, moves)
        changed = {change["member_guid"] for change in differing}.union(again.values())
        return counts + Applied(
            inserted=inserted,
            changed=len(changed),
            unchanged=len(pairs) - len(overtaken) - len(changed),
            back=back,
            moved=len(moves),
            of_others=tuple(of_others),
            overtaken=len(overtaken),
        )

    async def _targets(self, connection: AsyncConnection, answers: Sequence[MxMember]) -> dict[str, list[OurMember]]:
        """The rows that each answer is about, by the answer's GUID."""
        found: dict[str, list[OurMember]] = {}
        seen: set[str] = set()

        async def read(statement: Any, guids: Iterable[str], names: dict[str, str] | None = None) -> None:
            given = self._rows.encode({"guid": guid} for guid in sorted(guids))
            for answered, *values in await connection.execute(statement, {"given": given}):
                row = OurMember(**dict(zip(OurMember.__struct_fields__, values, strict=True)))
                if row.member_guid not in seen:
                    seen.add(row.member_guid)
                    found.setdefault((names or {}).get(answered, answered), []).append(row)

        asked = {answer.asked_guid: answer.member_guid for answer in answers if answer.asked_guid is not None}
        guids = {answer.member_guid for answer in answers}
        await read(self._by_guid, asked, asked)
        await read(self._by_guid, guids)
        await read(self._by_new_guid, guids)
        if own := {
            answer.own_id: answer.member_guid
            for answer in answers
            if answer.own_id is not None and answer.member_guid not in found
        }:
            await read(self._by_guid, own, own)
        if unknown := guids - found.keys():
            given = self._rows.encode({"guid": guid} for guid in sorted(unknown))
            before = {old: new for new, old in await connection.execute(self._moved_before, {"given": given})}
            if before:
                await read(self._by_guid, before, before)
        return found

    async def _insert_unknown(self, connection: AsyncConnection, unknown: Sequence[MxMember]) -> int:
        if not unknown:
            return 0
        whose = sorted({answer.user_guid for answer in unknown})
        await connection.execute(self._insert_users, {"given": self._rows.encode({"guid": guid} for guid in whose)})
        new = [
            {
                "member_guid": answer.member_guid,
                "user_guid": answer.user_guid,
                "institution_code": answer.institution_code,
                "institution_name": answer.institution_name,
                "connection_status": answer.connection_status,
                "is_oauth": answer.is_oauth,
                "error_code": answer.error_code,
            }
            for answer in sorted(unknown, key=lambda one: one.member_guid)
        ]
        inserted = await connection.execute(self._insert, {"given": self._rows.encode(new)})
        return len(inserted.all())

    async def _reconnections(
        self, connection: AsyncConnection, guids: Collection[str], read_at: datetime
    ) -> dict[str, list[_Open]]:
        if not guids:
            return {}
        given = {"given": self._rows.encode({"guid": guid} for guid in sorted(guids)), "read_at": read_at}
        found: dict[str, list[_Open]] = {}
        for values in await connection.execute(self._about, given):
            each = _Open(**dict(zip(_Open.__struct_fields__, values, strict=True)))
            found.setdefault(each.member_guid, []).append(each)
        return found

    async def _close(
        self,
        connection: AsyncConnection,
        pairs: dict[str, tuple[MxMember, OurMember]],
        about: dict[str, list[_Open]],
        overtaken: Collection[str],
        *,
        now: datetime,
        skip_aggregation: bool,
    ) -> int:
        """Close the reconnections that are over by MX's answer; returns how many."""
        changes: list[Change] = []
        for guid, found in about.items():
            if guid in overtaken:
                continue
            answer = pairs[guid][0]
            changes += [
                _closing(each, answer, now=now)
                for each in found
                if each.state in _CLOSABLE and _is_back(each, answer, skip_aggregation=skip_aggregation)
            ]
        return await self._end(connection, changes, now)

    async def _end(self, connection: AsyncConnection, changes: Sequence[Change], now: datetime) -> int:
        if not changes:
            return 0
        ordered = sorted(changes, key=lambda change: change.id)
        closed = await self._transitions.apply(connection, ordered, by=Mover.SYNC, now=now)
        await self._notifications.cancel_about(connection, sorted(closed), now, by=Mover.SYNC)
        return len(closed)

    async def apply_users(self, connection: AsyncConnection, listed: Iterable[MxUser]) -> tuple[int, int]:
        """See :func:`apply_users`."""
        by_guid = {user.user_guid: user for user in listed}
        if not by_guid:
            return 0, 0
        guids = sorted(by_guid)
        given = self._rows.encode({"guid": guid} for guid in guids)
        inserted = (await connection.execute(self._insert_users, {"given": given})).scalars().all()
        known = [{"user_guid": guid, "email": by_guid[guid].email} for guid in guids if by_guid[guid].email is not None]
        filled: Sequence[str] = ()
        if known:
            given = self._rows.encode(known)
            filled = (await connection.execute(self._fill_emails, {"given": given})).scalars().all()
        return len(inserted), len(filled)

    async def mark_gone(self, connection: AsyncConnection, member_guids: Collection[str], now: datetime) -> int:
        """See :func:`mark_gone`."""
        if not member_guids:
            return 0
        about = await self._reconnections(connection, member_guids, NEVER)
        changes = [
            close(each.id, _R(each.state), _R.GONE, now=now, epoch=each.epoch, outcome="not_found", reopen_at=NEVER)
            for found in about.values()
            for each in found
            if each.state in _CLOSABLE
        ]
        await self._end(connection, changes, now)
        given = self._rows.encode({"guid": guid} for guid in sorted(member_guids))
        return len((await connection.execute(self._mark_gone, {"given": given, "now": now})).scalars().all())


def _is_back(each: _Open, answer: MxMember, *, skip_aggregation: bool) -> bool:
    # The member of a notice is well anyway.
    return each.reason != Reason.EXPIRES_SOON and is_back(
        connection_status=answer.connection_status,
        is_being_aggregated=answer.is_being_aggregated,
        successfully_aggregated_at=answer.successfully_aggregated_at,
        error_code=answer.error_code,
        broken_since=each.broken_since,
        reason=each.reason,
        skip_aggregation=skip_aggregation,
    )


def _closing(each: _Open, answer: MxMember, *, now: datetime) -> Change:
    well = Well(
        member_guid=each.member_guid,
        connection_status=answer.connection_status or "",
        error_code=answer.error_code,
        aggregated_at=answer.successfully_aggregated_at,
    )
    return close(each.id, _R(each.state), _R.RECONNECTED, now=now, well=well, epoch=each.epoch, outcome="back")


def _update(rows: Rows) -> Any:
    given = rows.table("given", {"member_guid": Text(), **WRITTEN}).c
    kept = ("connection_status", "is_oauth", "institution_code", "institution_name")
    return (
        update(members)
        .where(m.member_guid == given.member_guid)
        .values(
            **{name: func.coalesce(given[name], m[name]) for name in kept},
            error_code=case((given.clears_error, null()), else_=func.coalesce(given.error_code, m.error_code)),
            moved_to=given.moved_to,
            gone_at=None,
        )
    )


def _insert(rows: Rows) -> Any:
    columns = {
        name: type_
        for name, type_ in {"member_guid": Text(), "user_guid": Text(), **WRITTEN}.items()
        if name not in {"clears_error", "moved_to"}
    }
    given = rows.table("given", columns)
    return (
        rows.insert(members)
        .from_select(list(columns), select(given).where(true()))
        .on_conflict_do_nothing(index_elements=["member_guid"])
        .returning(m.member_guid)
    )
