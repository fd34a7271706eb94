"""Bursts of breaks at an institution: finding them, releasing the messages that were held, and remembering false alarms."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, and_, cast, delete, exists, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.outage import HISTORY, WINDOW, normal, on_the_ramp
from worker.store.pauses import lift, outage_scope, put
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, seconds_between
from worker.store.sql.tables import false_alarms, reconnections, state_literal

r = reconnections.c


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst:
    """How an institution's last window compares with its past."""

    institution_code: str
    breaks: int
    #: Earlier breaks, by how many hours before the window they were opened.
    earlier_by_hour: Mapping[int, int]
    #: How long before the window the oldest of them was opened.
    history: timedelta

    @property
    def per_window_normally(self) -> float:
        return normal(self.earlier_by_hour, self.history)


class _CalledOff(Exception):  # noqa: N818 - it names what happened
    """The burst is a false alarm: the transaction that begins a hold is rolled back."""


class OutageStore:
    """Finds bursts, begins and ends holds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transitions = database.rows.part(Transitions)

    async def busy_institutions(self, now: datetime, *, at_least: int) -> list[Burst]:
        """Institutions with at least so many breaks within the last window, and their earlier breaks.

        A break counts if it was found in the window, and no date says that it happened earlier. Notices do not count, nor breaks in the
        time for which an operator called the burst a false alarm (:meth:`release`).
        """
        is_false_alarm = exists().where(
            false_alarms.c.institution_code == r.institution_code, false_alarms.c.until >= r.opened_at
        )
        recent = (
            select(r.institution_code, func.count().label("breaks"))
            .where(
                r.opened_at > now - WINDOW, r.broken_since > now - WINDOW, r.institution_code.is_not(None), ~IS_NOTICE
            )
            .where(~is_false_alarm)
            .group_by(r.institution_code)
            .having(func.count() >= at_least)
        )

        async def work(connection: AsyncConnection) -> list[Burst]:
            busy = {row[0]: row[1] for row in await connection.execute(recent)}
            if not busy:
                return []
            hours = seconds_between(r.opened_at, literal(now - WINDOW, Moment())) / WINDOW.total_seconds()
            hour: Any = cast(hours if self._database.rows.is_sqlite else func.floor(hours), Integer)
            past = (
                select(r.institution_code, hour, func.count(), func.min(r.opened_at))
                .where(r.institution_code.in_(busy), r.opened_at <= now - WINDOW, r.opened_at > now - HISTORY)
                .where(~IS_NOTICE)
                .group_by(r.institution_code, hour)
            )
            breaks_by_hour: dict[str, dict[int, int]] = {code: {} for code in busy}
            earliest = dict.fromkeys(busy, now - WINDOW)
            for code, hours_ago, count, opened_at in await connection.execute(past):
                breaks_by_hour[code][hours_ago] = count
                earliest[code] = min(earliest[code], opened_at)
            return [
                Burst(
                    institution_code=code,
                    breaks=breaks,
                    earlier_by_hour=breaks_by_hour[code],
                    history=now - WINDOW - earliest[code],
                )
                for code, breaks in busy.items()
            ]

        return await self._database.transaction(work)

    async def hold(self, institution_code: str, reason: str, *, now: datetime) -> bool:
        """Begin or extend a hold. Returns whether it is new; never if an operator called the burst a false alarm in the meantime."""
        scope = outage_scope(institution_code)
        called_off = exists().where(
            false_alarms.c.institution_code == institution_code, false_alarms.c.until >= literal(now, Moment())
        )

        async def work(connection: AsyncConnection) -> bool:
            is_new = await put(connection, self._database.rows, scope, reason, now=now, probe_after=WINDOW)
            # Asked after the write, which waits for a release that is under way.
            if await connection.scalar(select(called_off)):
                raise _CalledOff
            return is_new

        try:
            return await self._database.transaction(work)
        except _CalledOff:
            return False

    async def release(self, institution_code: str, now: datetime, *, false_alarm: bool = False) -> int:
        """End a hold, and spread the held reconnections over the ramp. Returns how many there are.

        Reconnections that still wait for ``NOTIFY_AFTER`` get the place on the ramp from then on. ``false_alarm``: an operator ended the
        hold before the burst was over. Breaks up to now, and those within the next :data:`~worker.policy.outage.WINDOW`, count towards no
        burst, so that the next sweep does not hold them again.
        """
        in_grace = and_(r.outcome.is_(None), ~IS_NOTICE)
        held = (
            select(r.id, r.next_attempt_at)
            .where(r.institution_code == institution_code, r.state == state_literal("due"))
            .where(or_(r.next_attempt_at <= now, in_grace))
            .order_by(r.next_attempt_at, r.id)
        )

        async def work(connection: AsyncConnection) -> int:
            rows = (await connection.execute(held)).all()
            places = {
                row.id: max(now, row.next_attempt_at) + on_the_ramp(place / len(rows)) for place, row in enumerate(rows)
            }
            await self._transitions.spread(connection, places, now)
            if false_alarm:
                await self._note_false_alarm(connection, institution_code, now)
            await lift(connection, outage_scope(institution_code))
            return len(rows)

        return await self._database.transaction(work)

    async def _note_false_alarm(self, connection: AsyncConnection, institution_code: str, now: datetime) -> None:
        until = now + WINDOW
        await connection.execute(delete(false_alarms).where(false_alarms.c.until <= now - WINDOW))
        insert = self._database.rows.insert(false_alarms).values(institution_code=institution_code, until=until)
        await connection.execute(
            insert.on_conflict_do_update(index_elements=["institution_code"], set_={"until": until})
        )
