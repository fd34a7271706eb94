"""Checks: members of notified reconnections are read at MX to see whether they are back; after a click or ``/done`` also those of due ones.

A check needs no lease. Taking a check writes when the next one is due, so a check that is lost with its worker is repeated then. If a
reminder or a fetch came meanwhile, state or epoch differ, and the result is discarded.
"""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Float, Integer, and_, bindparam, case, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.recovery import FOR_CLICK
from worker.policy.states import ReconnectionState
from worker.store.pauses import EVERYTHING, MX, any_paused
from worker.store.sql.moments import Moment, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections, state_literal

r = reconnections.c
_R = ReconnectionState


class MemberCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection whose member is to be read."""

    id: int
    epoch: int
    #: `notified` or `due`. A due one is checked only after a click or the end of OAuth.
    state: ReconnectionState
    member_guid: str
    user_guid: str
    asked_guid: str
    reason: str
    broken_since: datetime
    checks: int
    #: The last click on it.
    clicked_at: datetime | None
    #: When it is checked again if this check is lost. If the row then has another moment, a click or a hint came meanwhile.
    again_at: datetime


class MemberChecks:
    """Takes checks, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._take = _take_statement(rows)

    async def take(
        self, connection: AsyncConnection, n: int, *, now: datetime, again_at: datetime
    ) -> list[MemberCheck]:
        """Take up to ``n`` reconnections whose check is due, and set their next check to ``again_at``.

        If this check is lost, it is made again then.
        """
        rows = await connection.execute(self._take, {"n": n, "now": now, "again_at": again_at})
        return [
            MemberCheck(
                id=row.id,
                epoch=row.epoch,
                state=_R(row.state),
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
        """How many reconnections could be checked now, counted no further than ``at_most``."""
        due_rows = select(r.id).where(_to_check(literal(now, Moment()))).limit(at_most).subquery()
        return int(await connection.scalar(select(func.count()).select_from(due_rows)) or 0)


def only_for_click() -> ColumnElement[Any]:
    """``next_check_at`` of a reconnection that is no longer notified: a check that follows a click stays, any other is dropped."""
    return case((r.next_check_at < later(r.clicked_at, literal(FOR_CLICK.total_seconds(), Float())), r.next_check_at))


def _to_check(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    # The states in the order of ix_reconnections_check: SQLite compares the text of the condition.
    states = r.state.in_((state_literal(_R.NOTIFIED), state_literal(_R.DUE)))
    return and_(states, r.next_check_at <= now, ~any_paused(EVERYTHING, MX))


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
