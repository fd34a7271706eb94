"""Reckoned expiries of members, from ``institutions``; the rule is that of ``policy/consents.py``.

``members.expiry_reckoned`` is the mark: while ``token_expires_at`` is the same moment, that date is ours. If the application writes another
date, that date is its own, and the mark is ignored. The next walk (``store/reckoning.py``) clears the mark.

====================================== ============================================================================
when                                   what happens
====================================== ============================================================================
a member comes back through us         its days count from then (``store/members.py``, :meth:`Consents.returned`)
a member is first seen, or another     the daily walk over all members finds it
institution is written into it
an institution's days change           a walk over all members begins with the next sweep
a reckoned date passes                 the next one is reckoned from it (:meth:`Consents.go_on`), where the days are known;
                                       else a walk takes the date back
the application empties the date       the reckoned one is written again: an application that writes all columns each
                                       night, and knows no date, does not end its users' notices
====================================== ============================================================================

The last two cases may concern a million rows at once, while the application is writing them. So a sweep writes them in small transactions
and skips rows that are locked. It waits for no writer, and no deadlock can follow. The next sweep finds the skipped rows. Until then an
emptied date counts as the reckoned one (``store/selection.py``).
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
    null,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.consents import LONGEST, SHORTEST
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.store.selection import is_reckoned
from worker.store.sql.application import is_guid, is_set, plain_text, whole_number
from worker.store.sql.moments import Moment, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import institutions, members, reconnections, state_literal
from worker.store.sql.tables.application import NO_DATE, NO_DATE_IN_SQLITE

i, m, r = institutions.c, members.c, reconnections.c

_DAY = 86_400.0
_NOW: ColumnElement[datetime] = bindparam("now", type_=Moment())


def days_are_known() -> ColumnElement[bool]:
    """Whether a row of ``institutions`` has a number of days for which consents last."""
    return whole_number(i.consent_days).between(SHORTEST, LONGEST)


def days_of() -> ColumnElement[int | None]:
    """For how many days a consent at the member's institution lasts; NULL if that is unknown."""
    return (
        select(whole_number(i.consent_days))
        .where(i.institution_code == plain_text(m.institution_code), days_are_known())
        .scalar_subquery()
    )


def on_return(now: ColumnElement[datetime], *, keep: ColumnElement[bool], otherwise: Any) -> dict[str, Any]:
    """The values to write into a member that comes back. ``keep``: whether its date stays; ``otherwise``: its date if none is reckoned."""
    days = days_of()
    date = later(now, cast(days, Float()) * _DAY)
    return {
        "consent_from": now,
        "token_expires_at": case((keep, m.token_expires_at), (days.is_not(None), date), else_=otherwise),
        "expiry_reckoned": case((keep, null()), (days.is_not(None), date), else_=null()),
    }


class Consents:
    """The statements on reckoned dates; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._are_any = select(i.institution_code).where(days_are_known()).limit(1)
        ids = rows.table("given", {"id": BigInteger()}).c
        has_own_date = and_(is_set(m.token_expires_at), ~is_reckoned())
        self._returned = (
            update(members)
            .where(
                ids.id == r.id,
                r.member_guid == m.member_guid,
                r.state == state_literal(ReconnectionState.RECONNECTED),
                r.reason != Reason.EXPIRES_SOON,
            )
            .values(on_return(_NOW, keep=has_own_date, otherwise=null()))
        )
        is_emptied = and_(
            m.expiry_reckoned.is_not(None),
            text(NO_DATE_IN_SQLITE if rows.is_sqlite else NO_DATE),
            ~is_set(m.token_expires_at),
        )
        has_passed = and_(
            m.expiry_reckoned.is_not(None), m.expiry_reckoned <= _NOW, is_reckoned(), days_of().is_not(None)
        )
        # Ordered as their indexes are, so that the planner uses the index whatever number of rows it estimates.
        due = select(m.member_guid).order_by(m.expiry_reckoned).limit(bindparam("n", type_=Integer()))
        self._due = [due.where(condition, is_guid(m.member_guid)) for condition in (is_emptied, has_passed)]
        guids = rows.table("given", {"member_guid": Text()}).c
        in_batch = m.member_guid == guids.member_guid
        # Which of the two holds is read together with the lock. As a condition of the UPDATE it would make PostgreSQL go through all due
        # rows, by their index, for each batch.
        self._lock = (
            select(
                m.member_guid,
                case((is_emptied, 1), else_=0).label("is_emptied"),
                case((has_passed, 1), else_=0).label("has_passed"),
            )
            .where(in_batch)
            .order_by(m.member_guid)
            .with_for_update(skip_locked=True, key_share=True, of=members)
        )
        self._restore = update(members).where(in_batch).values(token_expires_at=m.expiry_reckoned)
        self._go_on = update(members).where(in_batch).values(_following())
        self._go_on_of = self._go_on.where(has_passed)

    async def are_any(self, connection: AsyncConnection) -> bool:
        """Whether any institution has known days."""
        return await connection.scalar(self._are_any) is not None

    async def returned(self, connection: AsyncConnection, ids: Collection[int], now: datetime) -> None:
        """Count the days from now for the members of those reconnections that closed as `reconnected`."""
        if ids and await self.are_any(connection):
            given = self._rows.encode({"id": id_} for id_ in sorted(ids))
            await connection.execute(self._returned, {"given": given, "now": now})

    async def due(self, connection: AsyncConnection, now: datetime, *, n: int) -> list[str]:
        """Members for :meth:`go_on`, sorted: up to ``n`` whose date was emptied, and up to ``n`` whose date has passed."""
        member_guids: set[str] = set()
        for query in self._due:
            member_guids.update((await connection.execute(query, {"now": now, "n": n})).scalars())
        return sorted(member_guids)

    async def go_on(self, connection: AsyncConnection, member_guids: Collection[str], now: datetime) -> int:
        """Write emptied reckoned dates of these members again, and replace passed ones by the next date; returns how many.

        A member that another transaction has locked is skipped.
        """
        locked_rows = (await connection.execute(self._lock, {"given": self._of(member_guids), "now": now})).all()
        passed = [row.member_guid for row in locked_rows if row.has_passed]
        emptied = [row.member_guid for row in locked_rows if row.is_emptied and not row.has_passed]
        if emptied:
            await connection.execute(self._restore, {"given": self._of(emptied)})
        if passed:
            await connection.execute(self._go_on, {"given": self._of(passed), "now": now})
        return len(emptied) + len(passed)

    async def go_on_of(self, connection: AsyncConnection, member_guids: Collection[str], now: datetime) -> None:
        """Replace passed reckoned dates of these members by the next date, before a visit reads them."""
        await connection.execute(self._go_on_of, {"given": self._of(member_guids), "now": now})

    def _of(self, member_guids: Collection[str]) -> str:
        return self._rows.encode({"member_guid": guid} for guid in sorted(member_guids))


def _following() -> dict[str, Any]:
    """The values to write into a member whose reckoned date has passed."""
    seconds = cast(days_of(), Float()) * _DAY
    following = later(m.expiry_reckoned, seconds)
    # If no sweep ran for long, the next date may have passed as well.
    start = case((following > _NOW, m.expiry_reckoned), else_=_NOW)
    date = later(start, seconds)
    return {"consent_from": start, "token_expires_at": date, "expiry_reckoned": date}
