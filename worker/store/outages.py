"""Bursts of breaks by institution: finding them, and letting go of what was held."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.outage import HISTORY, WINDOW, on_the_ramp
from worker.store.pauses import lift, outage_scope
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.database import Database
from worker.store.sql.tables import reconnections, state_literal

r = reconnections.c


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst:
    """How an institution's last window compares with its past."""

    institution_code: str
    breaks: int
    #: Breaks in the time before, and how long that time is.
    before: int
    history: timedelta

    @property
    def per_window_normally(self) -> float:
        return self.before / max(self.history / WINDOW, 1.0)


class OutageStore:
    """Reads openings, lets go of holds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transitions = database.rows.part(Transitions)

    async def busy_institutions(self, now: datetime, *, at_least: int) -> list[Burst]:
        """Institutions with so many breaks within the last window, beside what they had before."""
        recent = (
            select(r.institution_code, func.count().label("breaks"))
            .where(r.opened_at > now - WINDOW, r.institution_code.is_not(None), ~IS_NOTICE)
            .group_by(r.institution_code)
            .having(func.count() >= at_least)
        )

        async def work(connection: AsyncConnection) -> list[Burst]:
            busy = {row[0]: row[1] for row in await connection.execute(recent)}
            if not busy:
                return []
            past = (
                select(r.institution_code, func.count(), func.min(r.opened_at))
                .where(r.institution_code.in_(busy), r.opened_at <= now - WINDOW, r.opened_at > now - HISTORY)
                .where(~IS_NOTICE)
                .group_by(r.institution_code)
            )
            known = {code: (before, first) for code, before, first in await connection.execute(past)}
            bursts = []
            for code, breaks in busy.items():
                before, first = known.get(code, (0, now - WINDOW))
                bursts.append(Burst(institution_code=code, breaks=breaks, before=before, history=now - WINDOW - first))
            return bursts

        return await self._database.transaction(work)

    async def release(self, institution_code: str, now: datetime) -> int:
        """End a hold; those who were held are laid out along the ramp. Returns how many they are."""
        held = (
            select(r.id)
            .where(r.institution_code == institution_code, r.state == state_literal("due"), r.next_attempt_at <= now)
            .order_by(r.next_attempt_at, r.id)
        )

        async def work(connection: AsyncConnection) -> int:
            ids = (await connection.execute(held)).scalars().all()
            places = {id_: now + on_the_ramp(place / len(ids)) for place, id_ in enumerate(ids)}
            await self._transitions.spread(connection, places, now)
            await lift(connection, outage_scope(institution_code))
            return len(ids)

        return await self._database.transaction(work)
