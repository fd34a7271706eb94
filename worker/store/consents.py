"""Reckoned expiries of members, from ``institutions``; the rule is that of ``policy/consents.py``.

``members.expiry_reckoned`` is the mark: while ``token_expires_at`` is the same moment, that date is ours. An application that writes
another date, in whatever way, has its own, and the mark says nothing any more; the next walk (``store/reckoning.py``) clears it.

====================================== ============================================================================
when                                   what happens
====================================== ============================================================================
a member comes back through us         its days count from then (``store/members.py``, :meth:`Consents.returned`)
a member is first seen, or another     the daily walk over all members finds it
institution is written into it
an institution's days change           a walk over all members begins with the next sweep
a reckoned date passes                 the next one is reckoned from it (:meth:`Consents.go_on`), where the days are known
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
from worker.store.sql.application import is_set, plain_text, whole_number
from worker.store.sql.moments import Moment, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import institutions, members, reconnections, state_literal
from worker.store.sql.tables.application import NO_DATE, NO_DATE_IN_SQLITE

i, m, r = institutions.c, members.c, reconnections.c

_DAY = 86_400.0
_NOW: ColumnElement[datetime] = bindparam("now", type_=Moment())


def days_are_known() -> ColumnElement[bool]:
    """Whether a row of ``institutions`` says for how long consents last."""
    return whole_number(i.consent_days).between(SHORTEST, LONGEST)


def days_of() -> ColumnElement[int | None]:
    """For how many days a consent at the member's institution lasts; NULL if that is unknown."""
    return (
        select(whole_number(i.consent_days))
        .where(i.institution_code == plain_text(m.institution_code), days_are_known())
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
        self._are_any = select(i.institution_code).where(days_are_known()).limit(1)
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
            .where(
                m.expiry_reckoned.is_not(None),
                text(NO_DATE_IN_SQLITE if rows.is_sqlite else NO_DATE),
                ~is_set(m.token_expires_at),
            )
            .values(token_expires_at=m.expiry_reckoned)
        )

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

        Where the days are no longer known, a walk takes the date back.
        """
        restored = (await connection.execute(self._restore)).rowcount
        return int(restored + (await connection.execute(self._go_on, {"now": now})).rowcount)

    async def go_on_of(self, connection: AsyncConnection, member_guids: Collection[str], now: datetime) -> None:
        """The same of these members alone, before anything follows from their dates."""
        given = self._rows.encode({"member_guid": guid} for guid in sorted(member_guids))
        await connection.execute(self._go_on_of, {"given": given, "now": now})


def _going_on() -> Any:
    days = days_of()
    seconds = cast(days, Float()) * _DAY
    following = later(m.expiry_reckoned, seconds)
    # After a long rest of the sweeps the next date may have passed as well.
    start = case((following > _NOW, m.expiry_reckoned), else_=_NOW)
    date = later(start, seconds)
    return (
        update(members)
        .where(m.expiry_reckoned.is_not(None), m.expiry_reckoned <= _NOW, is_reckoned(), days.is_not(None))
        .values(consent_from=start, token_expires_at=date, expiry_reckoned=date)
    )
