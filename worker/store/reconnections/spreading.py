"""Spreading the notices of a wave: members of one institution that expire on one day, by the rule of ``policy/waves.py``."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import BigInteger, Boolean, Text, bindparam, func, select, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.waves import first_moment, is_wave, place_of
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.sql.application import plain_text
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, state_literal

m, r = members.c, reconnections.c

#: The outcome of a notice that waits for its own moment.
SCHEDULED = "scheduled_notice"
#: Notices decided in one page.
_PAGE = 10_000


class Spreading:
    """The statements of spreading. They run in the transaction that opens notices, so that none is sent before it is decided."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        undecided = (r.state == state_literal("due"), IS_NOTICE, r.wave.is_(None))
        columns = (r.id, r.member_guid, r.institution_code, r.broken_since)
        self._undecided = select(*columns).where(*undecided).limit(_PAGE).with_for_update(skip_locked=True)
        dated = type_coerce(m.token_expires_at, Text() if rows.is_sqlite else Moment())
        kind = Text() if rows.is_sqlite else Moment()
        code = plain_text(m.institution_code)
        self._counts = (
            select(code, func.count())
            .where(
                m.token_expires_at.is_not(None),
                dated >= bindparam("from_day", type_=kind),
                dated < bindparam("to_day", type_=kind),
            )
            .group_by(code)
        )
        given = rows.table("given", {"id": BigInteger(), "wave": Boolean(), "at": Moment(), "outcome": Text()}).c
        self._decide = (
            update(reconnections)
            .where(r.id == given.id, *undecided)
            .values(
                wave=given.wave,
                next_attempt_at=func.coalesce(given.at, r.next_attempt_at),
                outcome=func.coalesce(given.outcome, r.outcome),
            )
        )

    async def spread(self, connection: AsyncConnection, days: Sequence[int], now: datetime) -> int:
        """Give each new notice of a wave a moment of its own; ``days`` is ``EXPIRY_NOTICE_DAYS``. Returns how many were spread."""
        spread = 0
        counts: dict[date, dict[str | None, int]] = {}
        while page := (await connection.execute(self._undecided)).all():
            decided = []
            for id_, guid, code, expires_at in page:
                day = expires_at.astimezone(UTC).date()
                if day not in counts:
                    counts[day] = await self._count(connection, day)
                wave = code is not None and is_wave(counts[day].get(code, 0))
                at = first_moment(expires_at, days, now=now, place=place_of(guid)) if wave else None
                decided.append({"id": id_, "wave": wave, "at": at, "outcome": SCHEDULED if wave else None})
                spread += wave
            await connection.execute(self._decide, {"given": self._rows.encode(decided)})
        return spread

    async def _count(self, connection: AsyncConnection, day: date) -> dict[str | None, int]:
        """How many members of each institution expire on a day (UTC)."""
        following = day + timedelta(days=1)
        parameters: dict[str, Any] = {"from_day": day.isoformat(), "to_day": following.isoformat()}
        if not self._rows.is_sqlite:
            midnight = time(tzinfo=UTC)
            parameters = {"from_day": datetime.combine(day, midnight), "to_day": datetime.combine(following, midnight)}
        return {code: number for code, number in await connection.execute(self._counts, parameters)}  # noqa: C416 - rows
