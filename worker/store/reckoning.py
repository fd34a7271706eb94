"""The owner of ``reckonings``: a walk over all members that reckons missing expiries and corrects those whose days changed.

A walk begins with the first sweep after the days of an institution changed. It also begins once a day, for members that are new or have
another institution. Each sweep continues it for a part of its time, page by page, like a reconciliation (``store/reconciling.py``). A date
that is months ahead can wait for a day. Dates that cannot wait are found by an index in every sweep (:meth:`Consents.go_on`).
"""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

from sqlalchemy import (
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

from worker.policy.states import ReconnectionState
from worker.store.consents import Consents, days_are_known
from worker.store.reconciling import EVERY
from worker.store.reconnections.closing import Closing
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.selection import is_reckoned
from worker.store.sql.application import is_guid, is_set, plain_text, truth, whole_number
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import institutions, members, reckonings, reconnections, state_literal
from worker.store.sweeping import SECONDS, SECONDS_FOR

i, m, r, k = institutions.c, members.c, reconnections.c, reckonings.c
_R = ReconnectionState

#: Members of one page.
PAGE = 10_000
#: Members of one transaction, of those whose date was emptied or has passed. An application that writes them waits for no more than these.
BATCH = 1_000
_DAY = timedelta(days=1).total_seconds()
_NOW: ColumnElement[datetime] = bindparam("now", type_=Moment())


class Reckoning:
    """The statements of a walk, made once; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._closing = rows.part(Closing)
        self._days = (
            select(i.institution_code, whole_number(i.consent_days))
            .where(days_are_known())
            .order_by(i.institution_code)
        )
        self._is_marked = select(m.member_guid).where(m.expiry_reckoned.is_not(None)).limit(1)
        self._row = select(k.known, k.reason, k.started_at, k.finished_at).where(k.id == 1)
        self._first = rows.insert(reckonings).values(id=1).on_conflict_do_nothing()
        self._lock = select(k.after_guid).where(k.id == 1, k.finished_at.is_(None)).with_for_update(skip_locked=True)
        self._write = update(reckonings).where(k.id == 1)
        after, end = bindparam("after", type_=Text()), bindparam("end", type_=Text())
        page = and_(m.member_guid > after, m.member_guid <= end)
        self._reckon, self._clear, self._drop = _reckoning(page), _clearing(page), _dropping(page)
        self._end = (
            select(m.member_guid)
            .where(m.member_guid > after, is_guid(m.member_guid))
            .order_by(m.member_guid)
            .limit(1)
            .offset(bindparam("n", type_=Integer()))
        )
        self._last = select(m.member_guid).where(is_guid(m.member_guid)).order_by(m.member_guid.desc()).limit(1)
        guids = rows.table("given", {"member_guid": Text()}).c
        self._their_notices = and_(
            r.member_guid == guids.member_guid,
            r.closed_at.is_(None),
            r.state != state_literal(_R.LEASED),
            IS_NOTICE,
        )

    async def begin(self, connection: AsyncConnection, now: datetime) -> str | None:
        """Begin a walk if it is time to. Returns why the current walk was begun, `changed` or `daily`; ``None``: there is none.

        If days changed during a walk, it begins again.
        """
        days = (await connection.execute(self._days)).all()
        known = sha256(repr([tuple(row) for row in days]).encode()).hexdigest()
        row = (await connection.execute(self._row)).one_or_none()
        if row is None:
            await connection.execute(self._first)
            reason = "changed"
        elif row.known != known:
            reason = "changed"
        elif row.finished_at is None:
            return str(row.reason)
        elif abs(now - row.started_at) >= EVERY:
            reason = "daily"
        else:
            return None
        begun = {"known": known, "reason": reason, "started_at": now, "after_guid": "", "finished_at": None}
        if not days and await connection.scalar(self._is_marked) is None:
            begun["finished_at"] = now  # nothing to reckon, and nothing to take back
        await connection.execute(self._write.values(**begun))
        return None if begun["finished_at"] else reason

    async def page(self, connection: AsyncConnection, now: datetime, *, n: int) -> tuple[int, bool]:
        """Do one page of the walk: how many dates were written, and whether pages are left. Of two sweeps at once only one works on it."""
        after = await connection.scalar(self._lock)
        if after is None:
            return 0, False
        end, last_of_all = (
            await connection.scalar(self._end, {"after": after, "n": n - 1}),
            await connection.scalar(self._last),
        )
        is_last = end is None or end >= last_of_all
        end = last_of_all if is_last else end
        written = 0
        if end is not None and end > after:
            parameters = {"after": after, "end": end, "now": now}
            written = (await connection.execute(self._reckon, parameters)).rowcount
            written += (await connection.execute(self._clear, parameters)).rowcount
            dropped = (await connection.execute(self._drop, parameters)).scalars().all()
            written += len(dropped)
            await self._end_notices(connection, dropped, now)
        place = {"after_guid": "", "finished_at": now} if is_last else {"after_guid": end}
        await connection.execute(self._write.values(**place))
        return written, not is_last

    async def _end_notices(self, connection: AsyncConnection, dropped: Sequence[str], now: datetime) -> None:
        """Cancel the notices of these members, whose date was taken back. A visit would end them as renewed, because the date is empty."""
        if dropped:
            await self._closing.close(
                connection,
                self._their_notices,
                parameters={"given": self._rows.encode({"member_guid": guid} for guid in dropped)},
                before=(_R.DUE, _R.READY, _R.NOTIFIED),
                after=(_R.CANCELLED,),
                state=_R.CANCELLED,
                outcome="expiry_moved",
                now=now,
            )


class ReckoningStore:
    """The transactions of a sweep."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._consents = database.rows.part(Consents)
        self._reckoning = database.rows.part(Reckoning)

    async def reckon(self, now: datetime, *, page: int = PAGE, seconds: float | None = None) -> int:
        """Do the part of a sweep that concerns reckoned dates; returns how many were written.

        ``seconds``: how long to walk, at least one page; by default as long as a sweep spends on a reconciliation.
        """
        began = time.monotonic()
        total_written = await self._go_on(now)
        reason = await self._database.transaction(lambda connection: self._reckoning.begin(connection, now))
        if reason is None:
            return total_written
        share = SECONDS_FOR.get(reason, SECONDS) if seconds is None else seconds
        while True:
            written, more = await self._database.transaction(
                lambda connection: self._reckoning.page(connection, now, n=page)
            )
            total_written += written
            if not more or time.monotonic() - began > share:
                return total_written

    async def _go_on(self, now: datetime) -> int:
        """Write the dates that cannot wait for a walk, except in locked rows; returns how many."""
        total_written = 0
        while True:
            due = await self._database.transaction(partial(self._consents.due, now=now, n=PAGE))
            written = 0
            for start in range(0, len(due), BATCH):
                batch = due[start : start + BATCH]
                written += await self._database.transaction(partial(self._consents.go_on, member_guids=batch, now=now))
            total_written += written
            if len(due) < PAGE or not written:
                return total_written


def _reckoning(page: ColumnElement[bool]) -> Any:
    """For a page of members at institutions with known days: reckon missing dates, and correct reckoned dates if the days changed."""
    known = (
        select(i.institution_code.label("code"), whole_number(i.consent_days).label("days"))
        .where(days_are_known())
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


def _clearing(page: ColumnElement[bool]) -> Any:
    """For a page: clear the mark of members for which the application wrote a date of its own."""
    return update(members).where(page, m.expiry_reckoned.is_not(None), ~is_reckoned()).values(expiry_reckoned=null())


def _dropping(page: ColumnElement[bool]) -> Any:
    """For a page: take reckoned dates back if the days are unknown now.

    While the member's reconnection is leased, its date stays until the next walk.
    """
    known = exists().where(i.institution_code == plain_text(m.institution_code), days_are_known())
    leased = exists().where(r.member_guid == m.member_guid, r.state == state_literal(_R.LEASED))
    return (
        update(members)
        .where(page, m.expiry_reckoned.is_not(None), is_reckoned(), ~known, ~leased)
        .values(token_expires_at=null(), expiry_reckoned=null())
        .returning(m.member_guid)
    )
