"""What MX says of users and members goes into ``users`` and ``members``: a batch in one transaction, and only what differs.

What the application alone knows is not touched: locale, time zone, channel, every ``token_*``, a name of the institution, an address
unless it is empty. Exception: where MX's answer closes a reconnection as `reconnected`, the dates of the token that it disproves are
cleared, as verify does it (``store/members.py``).

===================================== =================================================================================
MX says                               what becomes of it
===================================== =================================================================================
a member that we do not have          it is inserted, and so is its user
status, OAuth flag, institution code  they go into the row; what MX leaves out keeps its value
an error code                         it goes into the row. MX names none although it could: 2004 and 2005 are cleared
another GUID than the row has         ``moved_to`` of the row, and of its open reconnection; the row keeps its GUID
well again, a reconnection is open    closed as `reconnected` by the rule of verify (``policy/recovery.py``). A claimed
                                      one is left to its worker, which asks MX as well
another user than our row has         nothing: the row is kept, and counted
managed by a partner                  nothing: it is counted
older than the end of a reconnection  nothing: the customer came back after MX was read
===================================== =================================================================================
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, Integer, Text, bindparam, case, func, null, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.recovery import is_back
from worker.policy.selection import ERROR_CODES, Reason
from worker.policy.states import Mover, ReconnectionState
from worker.store.members import Well
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconnections.changes import Change, close
from worker.store.reconnections.moving import Moving
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.application import plain_text
from worker.store.sql.moments import NEVER, Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, users

m, r, u = members.c, reconnections.c, users.c
_R = ReconnectionState

#: States in which an answer of MX closes a reconnection here. `leased` belongs to the worker that has claimed it.
_CLOSABLE = frozenset({_R.DUE, _R.READY, _R.NOTIFIED})


class MxUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user as MX lists it."""

    user_guid: str
    #: One mailbox, checked; ``None``: MX names none, or it is not to be taken over.
    email: str | None = None
    #: The client's own id of it, by which our tables may name it.
    own_id: str | None = None

    def __repr__(self) -> str:
        return f"MxUser({self.user_guid})"


class MxMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member as MX describes it. ``None``: MX does not say."""

    user_guid: str
    #: The GUID that MX answered with.
    member_guid: str
    #: The GUID that it was asked for, if that is another one: our row has it.
    asked_guid: str | None = None
    #: The client's own id of it, by which our row may name it.
    own_id: str | None = None
    connection_status: str | None = None
    is_oauth: bool | None = None
    institution_code: str | None = None
    #: For a row that has none.
    institution_name: str | None = None
    error_code: int | None = None
    #: Whether MX's answer has a place for an error, so that ``error_code=None`` means "no error".
    tells_error: bool = False
    is_managed_by_user: bool | None = None
    is_being_aggregated: bool | None = None
    successfully_aggregated_at: datetime | None = None


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch did, in members."""

    #: Rows that are new.
    inserted: int = 0
    #: Rows that were written because MX says something else than they did.
    changed: int = 0
    unchanged: int = 0
    #: Reconnections closed as `reconnected`.
    back: int = 0
    #: Rows whose member MX carries on under another GUID, learnt now.
    moved: int = 0
    #: Skipped: a partner manages it.
    managed: int = 0
    #: Skipped: MX says that another user has it than our row does, or names two users. Their GUIDs.
    of_others: tuple[str, ...] = ()
    #: Skipped: a reconnection of it ended after MX was read.
    overtaken: int = 0

    def __add__(self, other: "Applied") -> "Applied":
        return Applied(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


async def apply_members(
    connection: AsyncConnection,
    rows: Rows,
    answers: Iterable[MxMember],
    *,
    read_at: datetime,
    now: datetime,
    skip_aggregation: bool = False,
) -> Applied:
    """Write what MX said of these members, in the caller's transaction and a few statements; what did not differ stays unwritten.

    ``read_at``: a moment before the first of them was asked for, by the database's clock. ``skip_aggregation``:
    ``MX_SKIP_AGGREGATION``. If MX names one member twice, the first answer counts.
    """
    return await rows.part(MxMembers).apply(
        connection, answers, read_at=read_at, now=now, skip_aggregation=skip_aggregation
    )


async def apply_users(connection: AsyncConnection, rows: Rows, listed: Iterable[MxUser]) -> tuple[int, int]:
    """Insert the users that are new, and fill addresses that are empty; how many of each."""
    return await rows.part(MxMembers).apply_users(connection, listed)


async def mark_gone(connection: AsyncConnection, rows: Rows, member_guids: Collection[str], now: datetime) -> int:
    """MX answered 404 for these members: their rows say so, and their open reconnections end as `gone`. How many rows."""
    return await rows.part(MxMembers).mark_gone(connection, member_guids, now)


class OurMember(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``members``, as far as MX has a word for it."""

    member_guid: str
    user_guid: str
    connection_status: str | None
    is_oauth: bool | None
    institution_code: str | None
    institution_name: str | None
    error_code: int | None
    moved_to: str | None
    is_gone: bool


#: What to select for an :class:`OurMember`, in the order of its fields.
OUR_MEMBER: Sequence[ColumnElement[Any]] = (
    *(m[name] for name in OurMember.__struct_fields__ if name != "is_gone"),
    m.gone_at.is_not(None).label("is_gone"),
)


def says_nothing_new(answer: MxMember, row: OurMember) -> bool:
    """Whether our row says already what MX does. Its open reconnection, if it has one, may be over all the same."""
    is_ours = row.user_guid == answer.user_guid and answer.is_managed_by_user is not False
    return is_ours and _difference(answer, row) is None


class _Open(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection that is open, or that ended of late."""

    id: int
    member_guid: str
    state: str
    epoch: int
    reason: str
    broken_since: datetime
    closed_at: datetime | None


class MxMembers:
    """Its statements, made once."""

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
            .where(or_(r.closed_at.is_(None), r.closed_at >= bindparam("read_at", type_=Moment())))
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
        first, counts = _first_of_each(answers)
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
        overtaken = {guid for guid, found in about.items() if any(each.closed_at is not None for each in found)}
        back = await self._close(connection, pairs, about, overtaken, now=now, skip_aggregation=skip_aggregation)
        differing = []
        moves = {}
        for guid in sorted(pairs.keys() - overtaken):  # as everybody locks them
            answer, row = pairs[guid]
            if (change := _difference(answer, row)) is not None:
                differing.append(change)
                if change["moved_to"] is not None and change["moved_to"] != row.moved_to:
                    moves[guid] = answer.member_guid
        if differing:
            await connection.execute(self._update, {"given": self._rows.encode(differing)})
        await self._moving.note(connection, moves)
        return counts + Applied(
            inserted=inserted,
            changed=len(differing),
            unchanged=len(pairs) - len(overtaken) - len(differing),
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
        """Close the reconnections of which MX says that they are over; how many."""
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


def _first_of_each(answers: Iterable[MxMember]) -> tuple[list[MxMember], Applied]:
    """The first answer about each member, and what is skipped without a look at our rows."""
    first: dict[str, MxMember] = {}
    managed, of_others = 0, []
    for answer in answers:
        if answer.is_managed_by_user is False:
            managed += 1
        elif (before := first.setdefault(answer.member_guid, answer)) is not answer:
            of_others += [answer.member_guid] if before.user_guid != answer.user_guid else []
    return list(first.values()), Applied(managed=managed, of_others=tuple(of_others))


def _difference(answer: MxMember, row: OurMember) -> dict[str, Any] | None:
    """What to write into the row; ``None``: nothing. A column that is to keep its value is ``None``, but for ``moved_to``."""
    change: dict[str, Any] = {
        name: value
        for name in ("connection_status", "is_oauth", "institution_code", "error_code")
        if (value := getattr(answer, name)) is not None and value != getattr(row, name)
    }
    if row.institution_name is None and answer.institution_name is not None:
        change["institution_name"] = answer.institution_name
    if answer.tells_error and answer.error_code is None and row.error_code in ERROR_CODES:
        change["clears_error"] = True
    moved_to = answer.member_guid if row.member_guid not in {answer.member_guid, answer.own_id} else None
    if not change and moved_to == row.moved_to and not row.is_gone:
        return None
    return {**dict.fromkeys(_WRITTEN), **change, "member_guid": row.member_guid, "moved_to": moved_to}


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


#: The columns of an update, beside the GUID.
_WRITTEN: dict[str, Any] = {
    "connection_status": Text(),
    "is_oauth": Boolean(),
    "institution_code": Text(),
    "institution_name": Text(),
    "error_code": Integer(),
    "clears_error": Boolean(),
    "moved_to": Text(),
}


def _update(rows: Rows) -> Any:
    given = rows.table("given", {"member_guid": Text(), **_WRITTEN}).c
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
        for name, type_ in {"member_guid": Text(), "user_guid": Text(), **_WRITTEN}.items()
        if name not in {"clears_error", "moved_to"}
    }
    given = rows.table("given", columns)
    return (
        rows.insert(members)
        .from_select(list(columns), select(given).where(true()))
        .on_conflict_do_nothing(index_elements=["member_guid"])
        .returning(m.member_guid)
    )
