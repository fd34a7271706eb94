"""A visit to members: the rule is applied, reconnections that are over close, and broken members get one. A sweep visits listed members, a
reconciliation all of them. Both use these statements, so that they agree.

A visit may be repeated, and may change nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import ColumnElement, Text, and_, bindparam, case, literal, or_
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.recovery import USER_CHANGED
from worker.policy.states import ReconnectionState
from worker.store.reconnections.closing import Closing
from worker.store.reconnections.notices import IS_NOTICE, Notices
from worker.store.reconnections.opening import Opening, open_all
from worker.store.reconnections.spreading import Spreading
from worker.store.reconnections.transitions import Transitions
from worker.store.selection import BROKEN, is_of_other_user, standing
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, state_literal

m, r = members.c, reconnections.c
_R = ReconnectionState


@dataclass(kw_only=True)
class VisitCounts:
    """What visits opened and closed."""

    #: Reconnections, notices ahead of an expiry among them.
    opened: int = 0
    #: Reconnections whose member is no longer broken, is gone, or belongs to another user.
    closed: int = 0

    def __iadd__(self, other: "VisitCounts") -> Self:
        self.opened += other.opened
        self.closed += other.closed
        return self


class Visits:
    """The statements of a visit; ``grace``: how long after a break its user is told at the earliest."""

    def __init__(self, rows: Rows, *, statuses: tuple[str, ...], notice_days: tuple[int, ...]) -> None:
        self._rows = rows
        self.notices = rows.part(Notices, statuses=statuses, days=notice_days)
        self.opening = rows.part(Opening, statuses=statuses)
        self._transitions = rows.part(Transitions)
        self._closing = rows.part(Closing)
        self._spreading = rows.part(Spreading)
        given = rows.table("given", {"member_guid": Text()}).c
        now: ColumnElement[datetime] = bindparam("now", type_=Moment())
        self._of_visited = r.member_guid == given.member_guid
        stands = standing(r.member_guid, statuses, now, picked_for=r.reason, user_guid=r.user_guid)
        is_gone = stands == str(_R.GONE)
        is_other_user = is_of_other_user(r.member_guid, r.user_guid)
        # The member of an open notice is well, so being well does not end it.
        may_end = or_(~IS_NOTICE, is_gone, is_other_user)
        is_over = and_(r.closed_at.is_(None), r.state != state_literal(_R.LEASED), stands != BROKEN, may_end)
        outcome = case(
            (is_gone, literal("member_deleted")),
            (is_other_user, literal(USER_CHANGED)),
            else_=literal("no_longer_broken"),
        )
        self._ends: list[tuple[ColumnElement[bool], Any, Any]] = [(is_over, stands, outcome), self.notices.ending()]
        self._well = stands.in_([str(_R.RECONNECTED), str(_R.CANCELLED)])
        is_visited = m.member_guid == given.member_guid
        self._open = self.opening.opening(is_visited)
        self._open_notices = self.notices.opening(is_visited)

    async def visit(
        self, connection: AsyncConnection, guids: Collection[str], now: datetime, *, grace: timedelta
    ) -> VisitCounts:
        """Close the reconnections of members that are no longer broken, and open one for those that are, in this transaction."""
        counts = VisitCounts()
        if not guids:
            return counts
        given = {"given": self._rows.encode({"member_guid": guid} for guid in guids)}
        for is_over, state, outcome in self._ends:
            counts.closed += await self._closing.close(
                connection,
                self._of_visited,
                is_over,
                parameters=given,
                before=(_R.DUE, _R.READY, _R.NOTIFIED),
                after=(_R.RECONNECTED, _R.CANCELLED, _R.GONE),
                state=state,
                outcome=outcome,
                now=now,
            )
        await self._transitions.allow_reopening(connection, self._of_visited, self._well, now=now, parameters=given)
        opening = {"now": now, "grace": grace.total_seconds(), **given}
        counts.opened += await open_all(connection, self._open, opening)
        if self.notices.days:
            parameters = self.notices.parameters(now) | given
            if notices := await open_all(connection, self._open_notices, parameters):
                await self._spreading.spread(connection, self.notices.days, now)
            counts.opened += notices
        return counts
