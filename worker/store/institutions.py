"""How long consents last at each institution: `reconnect institutions` writes it into ``institutions``, and `status` reads it."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Integer, Text, bindparam, case, cast, func, select, true, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.selection import is_reckoned
from worker.store.sql.application import plain_text
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, normalised, seconds_between
from worker.store.sql.tables import institutions, members

i, m = institutions.c, members.c

_WEEK = timedelta(days=7)
_NOW = bindparam("now", type_=Moment())


class ExpiringWeek(msgspec.Struct, frozen=True, kw_only=True):
    """Members of one institution whose token expires in one of the coming weeks."""

    institution_code: str | None
    #: The beginning of the week, counted from now on.
    begins_at: datetime
    members: int
    #: How many of these dates were reckoned from how long a consent lasts.
    reckoned: int


class InstitutionStore:
    """Writes ``institutions``, and counts expiries by institution."""

    def __init__(self, database: Database) -> None:
        self._database = database
        rows = database.rows
        given = rows.table("given", {"institution_code": Text(), "consent_days": Integer()})
        insert = rows.insert(institutions).from_select(
            ["institution_code", "consent_days"], select(given).where(true())
        )
        changed = i.consent_days.is_distinct_from(insert.excluded.consent_days)
        self._upsert = insert.on_conflict_do_update(
            index_elements=["institution_code"], set_={"consent_days": insert.excluded.consent_days}, where=changed
        )
        self._expiring = _expiring(is_sqlite=rows.is_sqlite)

    async def upsert(self, consent_days: Iterable[tuple[str, int | None]]) -> None:
        """Write the rows of a file: code and days; the last row of a code wins."""
        latest = dict(consent_days)
        given = self._database.rows.encode(
            {"institution_code": code, "consent_days": days} for code, days in sorted(latest.items())
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(self._upsert, {"given": given})

        await self._database.transaction(work)

    async def expiring(self, now: datetime, *, weeks: int) -> list[ExpiringWeek]:
        """Members whose token expires within so many weeks, by institution and week; the largest institutions first."""

        async def work(connection: AsyncConnection) -> list[ExpiringWeek]:
            parameters = {"now": now, "until": now + weeks * _WEEK}
            return [
                ExpiringWeek(
                    institution_code=code, begins_at=now + week * _WEEK, members=number, reckoned=int(reckoned)
                )
                for code, week, number, reckoned in await connection.execute(self._expiring, parameters)
            ]

        expiring_weeks = await self._database.transaction(work)
        sizes: dict[str | None, int] = {}
        for week in expiring_weeks:
            sizes[week.institution_code] = sizes.get(week.institution_code, 0) + week.members
        return sorted(
            expiring_weeks,
            key=lambda week: (-sizes[week.institution_code], week.institution_code or "", week.begins_at),
        )


def _expiring(*, is_sqlite: bool) -> Any:
    date, until = normalised(m.token_expires_at), bindparam("until", type_=Moment())
    stored = date if is_sqlite else type_coerce(m.token_expires_at, Moment())  # PostgreSQL: as its index has it
    weeks = seconds_between(_NOW, date) / _WEEK.total_seconds()
    week: Any = cast(weeks if is_sqlite else func.floor(weeks), Integer)
    code = plain_text(m.institution_code)
    return (
        select(code, week, func.count(), func.sum(case((is_reckoned(), 1), else_=0)))
        .where(m.token_expires_at.is_not(None), stored > _NOW, stored <= until)
        .group_by(code, week)
    )
