"""What a sweep would do about a few members, at once: their rows were written just now, by what MX said of them.

The rules are those of a sweep. What this misses, because its process died before it, the next sweep does.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, case, literal
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import ReconnectionState
from worker.store.reconnections.closing import Closing
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.reconnections.opening import Opening, open_all
from worker.store.reconnections.transitions import Transitions
from worker.store.selection import BROKEN, standing
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.tables import members, reconnections, written

r = reconnections.c
_R = ReconnectionState


class CatchUpStore:
    """The steps of a sweep that follow from a write to ``members``, for members that are named."""

    def __init__(self, database: Database, *, statuses: Collection[str]) -> None:
        self._database = database
        self._statuses = statuses
        self._opening = Opening(database.rows, statuses=statuses)
        self._closing = database.rows.part(Closing)
        self._transitions = database.rows.part(Transitions)
        self._now: ColumnElement[datetime] = bindparam("now", type_=Moment())

    async def catch_up(self, member_guids: Collection[str], now: datetime, *, grace_seconds: float) -> tuple[int, int]:
        """Close what is over, and open what is broken; how many reconnections of each."""
        guids = sorted(member_guids)
        if not guids:
            return 0, 0

        async def work(connection: AsyncConnection) -> tuple[int, int]:
            closed = await self._close(connection, guids, now)
            opening = self._opening.opening(members.c.member_guid.in_(guids))
            return closed, await open_all(connection, opening, {"now": now, "grace": grace_seconds})

        return await self._database.transaction(work)

    async def _close(self, connection: AsyncConnection, guids: list[str], now: datetime) -> int:
        these = r.member_guid.in_(guids)
        stands: Any = standing(r.member_guid, self._statuses, self._now, picked_for=r.reason)
        closed = await self._closing.close(
            connection,
            and_(these, r.closed_at.is_(None), r.state != written(_R.LEASED), stands != BROKEN, ~IS_NOTICE),
            before=(_R.DUE, _R.READY, _R.NOTIFIED),
            after=(_R.RECONNECTED, _R.CANCELLED, _R.GONE),
            state=stands,
            outcome=case((stands == str(_R.GONE), literal("member_deleted")), else_=literal("no_longer_broken")),
            now=now,
        )
        well = stands.in_([str(_R.RECONNECTED), str(_R.CANCELLED)])
        await self._transitions.allow_reopening(connection, and_(these, well), now)
        return closed
