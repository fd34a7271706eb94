"""The owner of ``changed_members``: the members that a sweep has to visit.

Members are listed by the triggers of ``store/sql/triggers.py`` after writes to ``members``, by a sweep when a moment has passed
(:meth:`Changes.list_due`), and by code that closes or reopens a reconnection whose member must be visited again.

A visit deletes a batch of entries in the transaction that opens and closes reconnections for them. So a sweep that is killed deletes no
entry. If a reconnection is leased, the visit passes its member over, and the member's entry stays on the list. PostgreSQL: one statement
locks the entries before any other statement reads a member. A writer that held an entry has committed by then, so the next statements see
what it wrote.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    literal,
    or_,
    select,
    tuple_,
    union,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.moments import FIRST
from worker.policy.states import ReconnectionState
from worker.store.selection import may_matter
from worker.store.sql.application import is_guid
from worker.store.sql.moments import Moment, dated_between, dates_between
from worker.store.sql.rows import Rows
from worker.store.sql.tables import changed_members, members, reconnections, state_literal, sweep_marks

c, m, r, mark = changed_members.c, members.c, reconnections.c, sweep_marks.c

#: Two sweeps at the same time may read clocks that differ by this much. If a mark is further ahead, the clock was set back.
ASTRAY = timedelta(minutes=1)
#: The marks: up to which moment members that fall due are listed, and up to which expiry members are listed for a notice.
DUE, NOTICES = "due", "notices"

#: An entry: a member's GUID, and the entry's number.
Entry = tuple[str, int]
#: Sorts before all other entries.
FIRST_ENTRY: Entry = ("", -1)


class Open(NamedTuple):
    """An open reconnection as it was before a visit."""

    member_guid: str
    id: int
    epoch: int
    is_leased: bool


class Changes:
    """The statements on ``changed_members``, made once; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        given = rows.table("given", {"member_guid": Text(), "id": BigInteger()}).c
        after = tuple_(bindparam("after", type_=Text()), bindparam("after_id", type_=BigInteger()))
        self._take = (
            select(c.member_guid, c.id)
            .where(tuple_(c.member_guid, c.id) > after)
            .order_by(c.member_guid, c.id)
            .limit(bindparam("n", type_=Integer()))
            .with_for_update(skip_locked=True)
        )
        is_struck: ColumnElement[bool] = tuple_(c.member_guid, c.id).in_(select(given.member_guid, given.id))
        if not rows.is_sqlite:
            is_struck = and_(c.member_guid == given.member_guid, c.id == given.id)  # USING, which SQLite lacks
        self._strike = delete(changed_members).where(is_struck)
        guids = rows.table("given", {"member_guid": Text()}).c
        self._list = self._listing(select(guids.member_guid))
        is_leased = r.state == state_literal(ReconnectionState.LEASED)
        self._open = select(r.member_guid, r.id, r.epoch, case((is_leased, 1), else_=0).label("is_leased")).where(
            r.member_guid == guids.member_guid, r.closed_at.is_(None)
        )
        before = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()}).c
        self._claimed = select(r.member_guid).where(r.id == before.id, r.epoch != before.epoch)
        self._list_closed = self._listing(_to_visit_again(rows))
        self._known = rows.insert(sweep_marks).on_conflict_do_nothing()
        self._marks = select(mark.name, mark.until).order_by(mark.name).with_for_update()
        self._move = (
            update(sweep_marks).where(mark.name == bindparam("which")).values(until=bindparam("to", type_=Moment()))
        )
        self._until = select(mark.until).where(mark.name == DUE)
        lower, upper = (bindparam(name, type_=Moment()) for name in ("lower", "upper"))
        expiring = select(m.member_guid).where(
            m.token_expires_at.is_not(None), dated_between(m.token_expires_at, rows.is_sqlite), is_guid(m.member_guid)
        )
        rested = select(r.member_guid).where(r.reopen_at > lower, r.reopen_at <= upper)
        self._list_passed = {DUE: self._listing(union(expiring, rested)), NOTICES: self._listing(expiring)}

    def _listing(self, guids: Any) -> Any:
        if self._rows.is_sqlite:
            listed = guids.subquery("found")
            numbered = select(listed.c.member_guid, literal(0)).where(literal(1) == literal(1))
            return (
                self._rows.insert(changed_members).from_select(["member_guid", "id"], numbered).on_conflict_do_nothing()
            )
        return self._rows.insert(changed_members).from_select(["member_guid"], guids)

    async def take(self, connection: AsyncConnection, after: Entry, *, n: int) -> list[Entry]:
        """The next ``n`` entries behind ``after``, locked. Entries that others have locked are skipped and stay on the list."""
        parameters = {"after": after[0], "after_id": after[1], "n": n}
        return [(row[0], row[1]) for row in await connection.execute(self._take, parameters)]

    async def strike(self, connection: AsyncConnection, entries: Sequence[Entry]) -> None:
        """Delete these entries: their members were visited."""
        given = self._rows.encode({"member_guid": guid, "id": id_} for guid, id_ in entries)
        await connection.execute(self._strike, {"given": given})

    async def open_of(self, connection: AsyncConnection, guids: Collection[str]) -> Sequence[Open]:
        """The open reconnections of these members, before a visit to them."""
        rows = await connection.execute(self._open, {"given": self._of(guids)})
        return [Open(*row) for row in rows]

    async def passed_over(self, connection: AsyncConnection, before: Sequence[Open]) -> set[str]:
        """The members that a visit may have passed over: their reconnection was leased before it, or was claimed during it.

        ``before``: read before the visit. The state after the visit does not show this, since a worker may have handed the reconnection
        back meanwhile. The epoch shows it.
        """
        leased = {one.member_guid for one in before if one.is_leased}
        given = [{"id": one.id, "epoch": one.epoch} for one in before if not one.is_leased]
        if not given or self._rows.is_sqlite:  # SQLite has one writer at a time
            return leased
        claimed = await connection.execute(self._claimed, {"given": self._rows.encode(given)})
        return leased | set(claimed.scalars())

    async def list(self, connection: AsyncConnection, guids: Collection[str]) -> None:
        """List these members."""
        if guids:
            await connection.execute(self._list, {"given": self._of(guids)})

    async def list_closed(self, connection: AsyncConnection, reconnection_ids: Collection[int]) -> None:
        """List members of these reconnections, which closed: those that may still be broken, and those with one whose ``reopen_at`` is set."""
        if reconnection_ids:
            given = self._rows.encode({"id": id_} for id_ in reconnection_ids)
            await connection.execute(self._list_closed, {"given": given})

    def _of(self, guids: Collection[str]) -> str:
        return self._rows.encode({"member_guid": guid} for guid in guids)

    async def as_of(self, connection: AsyncConnection, now: datetime) -> datetime:
        """The moment at which a visit applies the rule: ``now``, or later if another sweep has already listed members up to a later moment."""
        until: datetime | None = await connection.scalar(self._until)
        return now if until is None else max(now, until)

    async def list_due(self, connection: AsyncConnection, now: datetime, ahead: datetime | None) -> None:
        """List the members for which a moment has passed since the last sweep: an expiry, a ``reopen_at``, or the moment from which an
        expiry may get a notice (expiries up to ``ahead``).

        If the clock was set back, the members whose moment lies ahead again are listed. The first call lists all whose moment has passed.
        """
        marks_at = {DUE: now} if ahead is None else {DUE: now, NOTICES: ahead}
        await connection.execute(self._known, [{"name": name, "until": FIRST} for name in marks_at])
        marks = {name: until for name, until in await connection.execute(self._marks)}  # noqa: C416 - rows
        for name, to in marks_at.items():
            since = marks[name]
            if since <= to or since > to + ASTRAY:
                if since != to:
                    bounds = dates_between(min(since, to), max(since, to), is_sqlite=self._rows.is_sqlite)
                    await connection.execute(self._list_passed[name], bounds)
                await connection.execute(self._move, {"which": name, "to": to})


def _to_visit_again(rows: Rows) -> Any:
    """Of reconnections that closed without ``reopen_at``, the members that may be broken; and members with any reconnection that has one."""
    given = rows.table("given", {"id": BigInteger()}).c
    resting = reconnections.alias("resting")
    rests = exists().where(resting.c.member_guid == r.member_guid, resting.c.reopen_at.is_not(None))
    return (
        select(r.member_guid)
        .join(members, m.member_guid == r.member_guid)
        .where(r.id == given.id, r.closed_at.is_not(None), or_(and_(r.reopen_at.is_(None), may_matter()), rests))
        .distinct()
    )
