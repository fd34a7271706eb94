"""Which members are read at MX, to see whether they are back.

A check needs no lease: taking it puts the next check ahead. So a check that dies is made again, and the result of one that was
superseded by a reminder is discarded by the epoch.
"""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Integer, and_, bindparam, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import ReconnectionState
from worker.store.pauses import EVERYTHING, MX, holds_all
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections, state_literal

r = reconnections.c
_R = ReconnectionState


class MemberCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A notified reconnection whose member is to be read."""

    id: int
    epoch: int
    member_guid: str
    user_guid: str
    asked_guid: str
    reason: str
    broken_since: datetime
    checks: int
    #: The last click on it.
    clicked_at: datetime | None
    #: When it is checked again if nothing comes of this check. Another moment in the row: a click or a hint came meanwhile.
    again_at: datetime


class MemberChecks:
    """Takes checks, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._take = _take_statement(rows)

    async def take(
        self, connection: AsyncConnection, n: int, *, now: datetime, again_at: datetime
    ) -> list[MemberCheck]:
        """Take up to ``n`` notified reconnections whose member is to be read; if nothing comes of it they are again at ``again_at``."""
        rows = await connection.execute(self._take, {"n": n, "now": now, "again_at": again_at})
        return [
            MemberCheck(
                id=row.id,
                epoch=row.epoch,
                member_guid=row.member_guid,
                user_guid=row.user_guid,
                asked_guid=row.moved_to or row.member_guid,
                reason=row.reason,
                broken_since=row.broken_since,
                checks=row.checks,
                clicked_at=row.clicked_at,
                again_at=again_at,
            )
            for row in rows
        ]

    async def due(self, connection: AsyncConnection, now: datetime, *, at_most: int) -> int:
        """How many could be checked now, counted no further than ``at_most``."""
        found = select(r.id).where(_to_check(literal(now, Moment()))).limit(at_most).subquery()
        return int(await connection.scalar(select(func.count()).select_from(found)) or 0)


def _to_check(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    return and_(r.state == state_literal(_R.NOTIFIED), r.next_check_at <= now, ~holds_all(EVERYTHING, MX))


def _take_statement(rows: Rows) -> Any:
    due = (
        select(r.id)
        .where(_to_check(bindparam("now", type_=Moment())))
        .order_by(r.next_check_at)
        .limit(bindparam("n", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        update(reconnections)
        .where(rows.among(r.id, select(due.c.id)))
        .values(next_check_at=bindparam("again_at", type_=Moment()))
        .returning(*r)
    )
