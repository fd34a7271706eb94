"""Reckoned expiries of members, from ``institutions``; the rule is that of ``policy/consents.py``. And the owner of ``reckonings``.

``members.expiry_reckoned`` is the mark: while ``token_expires_at`` is the same moment, that date is ours. An application that writes
another date, in whatever way, has its own, and the mark says nothing any more; the next walk clears it.

====================================== ============================================================================
when                                   what happens
====================================== ============================================================================
a member comes back through us         its days count from then (``store/members.py``, :meth:`Consents.returned`)
a member is first seen, or its         a walk over all members finds it: each sweep goes on by some pages
institution, or that one's days change
a reckoned date passes                 the next one is reckoned from it (:meth:`Consents.go_on`)
the application empties the date       the reckoned one is written again: an application that writes all columns each
                                       night, and knows no date, does not end its users' notices
====================================== ============================================================================
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.consents import LONGEST, SHORTEST
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.store.selection import is_reckoned
from worker.store.sql.application import is_guid, is_set, plain_text, truth, whole_number
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import institutions, members, reckonings, reconnections, state_literal

i, m, r, k = institutions.c, members.c, reconnections.c, reckonings.c

#: Members of one page of the walk, and pages in one sweep: a million members are walked in ten sweeps.
PAGE, PAGES = 10_000, 10
_DAY = 86_400.0
_NOW: ColumnElement[datetime] = bindparam("now", type_=Moment())


def _is_known() -> ColumnElement[bool]:
    return whole_number(i.consent_days).between(SHORTEST, LONGEST)


def days_of() -> ColumnElement[int | None]:
    """For how many days a consent at the member's institution lasts; NULL if that is unknown."""
    return (
        select(whole_number(i.consent_days))
        .where(i.institution_code == plain_text(m.institution_code), _is_known())
        .scalar_subquery()
    )


def on_return(now: ColumnElement[datetime], *, keep: ColumnElement[bool], otherwise: Any) -> dict[str, Any]:
    """What is written into a member that comes back. ``keep``: its own date stands; ``otherwise``: its date if nothing is reckoned."""
    days = days_of()
    date = later(now, cast(days, Float()) * _DAY)
    return {
        "consent_from": now,
        "token_expires_at": case((keep, m.token_expires_at), (days.is_not(None), date), else_=otherwise),
        "expiry_reckoned": case((keep, null()), (days.is_not(None), date), else_=null()),
    }


class Consents:
    """Its statements, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._are_any = select(i.institution_code).where(_is_known()).limit(1)
        ids = rows.table("given", {"id": BigInteger()}).c
        own = and_(is_set(m.token_expires_at), ~is_reckoned())
        self._returned = (
            update(members)
            .where(
                ids.id == r.id,
                r.member_guid == m.member_guid,
                r.state == state_literal(ReconnectionState.RECONNECTED),
                r.reason != Reason.EXPIRES_SOON,
            )
            .values(on_return(_NOW, keep=own, otherwise=null()))
        )
        self._go_on = _going_on()
        guids = rows.table("given", {"member_guid": Text()}).c
        self._go_on_of = self._go_on.where(m.member_guid == guids.member_guid)
        self._restore = (
            update(members)
            .where(m.expiry_reckoned.is_not(None), m.token_expires_at.is_(None))
            .values(token_expires_at=m.expiry_reckoned)
        )
        after, end = bindparam("after", type_=Text()), bindparam("end", type_=Text())
        page = and_(m.member_guid > after, m.member_guid <= end)
        self._reckon, self._drop = _reckoning(page), _dropping(page)
        self._known = rows.insert(reckonings).values(id=1).on_conflict_do_nothing()
        self._lock = select(k.after_guid).where(k.id == 1).with_for_update(skip_locked=True)
        self._end = (
            select(m.member_guid)
            .where(m.member_guid > after, is_guid(m.member_guid))
            .order_by(m.member_guid)
            .limit(1)
            .offset(bindparam("n", type_=Integer()))
        )
        self._last = select(m.member_guid).where(is_guid(m.member_guid)).order_by(m.member_guid.desc()).limit(1)
        self._move = update(reckonings).where(k.id == 1).values(after_guid=bindparam("to", type_=Text()))

    async def are_any(self, connection: AsyncConnection) -> bool:
        """Whether consents of any institution last for a known time."""
        return await connection.scalar(self._are_any) is not None

    async def returned(self, connection: AsyncConnection, ids: Collection[int], now: datetime) -> None:
        """Of these reconnections, those that closed as `reconnected`: their members' days count from now."""
        if ids and await self.are_any(connection):
            given = self._rows.encode({"id": id_} for id_ in sorted(ids))
            await connection.execute(self._returned, {"given": given, "now": now})

    async def go_on(self, connection: AsyncConnection, now: datetime) -> int:
        """Reckoned dates that were emptied stand again, and those that have passed go on; how many.

        Where the days are no longer known a date that has passed is taken back.
        """
        restored = (await connection.execute(self._restore)).rowcount
        return int(restored + (await connection.execute(self._go_on, {"now": now})).rowcount)

    async def go_on_of(self, connection: AsyncConnection, member_guids: Collection[str], now: datetime) -> None:
        """The same of these members alone, before anything follows from their dates."""
        given = self._rows.encode({"member_guid": guid} for guid in sorted(member_guids))
        await connection.execute(self._go_on_of, {"given": given, "now": now})

    async def walk(self, connection: AsyncConnection, now: datetime, *, n: int = PAGE) -> tuple[int, bool]:
        """Walk on by a page: how many dates were written, and whether there is more of this walk.

        Of two sweeps at once one walks.
        """
        await connection.execute(self._known)
        after = await connection.scalar(self._lock)
        if after is None:
            return 0, False
        end, of_all = (
            await connection.scalar(self._end, {"after": after, "n": n - 1}),
            await connection.scalar(self._last),
        )
        last = end is None or end >= of_all
        end = of_all if last else end
        found = 0
        if end is not None and end > after:
            given = {"after": after, "end": end, "now": now}
            found = (await connection.execute(self._reckon, given)).rowcount
            found += (await connection.execute(self._drop, given)).rowcount
        await connection.execute(self._move, {"to": "" if last else end})
        return found, not last


class ConsentStore:
    """The transactions of a sweep."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._consents = database.rows.part(Consents)

    async def reckon(self, now: datetime, *, page: int = PAGE, pages: int = PAGES) -> int:
        """Dates that passed go on, and the walk goes on by some pages; how many dates were written."""
        found = await self._database.transaction(lambda connection: self._consents.go_on(connection, now))
        if not await self._database.transaction(self._is_needed):
            return found
        for _ in range(pages):
            written_here, more = await self._database.transaction(
                lambda connection: self._consents.walk(connection, now, n=page)
            )
            found += written_here
            if not more:
                break
        return found

    async def _is_needed(self, connection: AsyncConnection) -> bool:
        """Whether there is anything to reckon, or to take back."""
        marked = select(m.member_guid).where(m.expiry_reckoned.is_not(None)).limit(1)
        return await self._consents.are_any(connection) or await connection.scalar(marked) is not None


def _going_on() -> Any:
    days = days_of()
    seconds = cast(days, Float()) * _DAY
    following = later(m.expiry_reckoned, seconds)
    # After a long rest of the sweeps the next date may have passed as well.
    start = case((following > _NOW, m.expiry_reckoned), else_=_NOW)
    date = case((days.is_not(None), later(start, seconds)), else_=null())
    return (
        update(members)
        .where(m.expiry_reckoned.is_not(None), m.expiry_reckoned <= _NOW, is_reckoned())
        .values(consent_from=start, token_expires_at=date, expiry_reckoned=date)
    )


def _reckoning(page: ColumnElement[bool]) -> Any:
    """A page of members at institutions whose days are known: those without a date get one, and reckoned dates follow the days."""
    known = (
        select(i.institution_code.label("code"), whole_number(i.consent_days).label("days"))
        .where(_is_known())
        .subquery("known")
    )
    seconds = cast(known.c.days, Float()) * _DAY
    begun = func.coalesce(m.consent_from, _NOW)
    start = case((later(begun, seconds) > _NOW, begun), else_=_NOW)
    date = later(start, seconds)
    moved = and_(is_reckoned(), m.expiry_reckoned != later(begun, seconds))
    return (
        update(members)
        .where(
            page,
            known.c.code == plain_text(m.institution_code),
            or_(~is_set(m.token_expires_at), moved),
            truth(m.is_oauth).is_not(False),
            m.gone_at.is_(None),
            is_guid(m.member_guid),
        )
        .values(consent_from=start, token_expires_at=date, expiry_reckoned=date)
    )


def _dropping(page: ColumnElement[bool]) -> Any:
    """A page: the mark goes where the application has a date of its own, and the date goes with it where the days are unknown now."""
    unknown = ~exists().where(i.institution_code == plain_text(m.institution_code), _is_known())
    return (
        update(members)
        .where(page, m.expiry_reckoned.is_not(None), or_(~is_reckoned(), unknown))
        .values(
            token_expires_at=case((is_reckoned(), null()), else_=m.token_expires_at),
            expiry_reckoned=null(),
        )
    )
