"""What the verify stage takes from the database and gives back.

A look at a member needs no lease: the claim puts the next look ahead, so a look that dies is made again, and one that is
superseded by a reminder is discarded by the epoch.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Integer, Text, bindparam, case, exists, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import ReconnectionState
from worker.store.members import Well, mark_well
from worker.store.pauses import EVERYTHING, MX
from worker.store.sql.database import Database
from worker.store.sql.moments import NEVER, Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import pauses, reconnections, windows, written

r = reconnections.c


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


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a look showed."""

    check: MemberCheck
    outcome: str
    #: The reconnection's end, if this is it.
    state: ReconnectionState | None = None
    next_check_at: datetime | None = None
    moved_to: str | None = None
    #: Reconnected: what MX said.
    well: Well | None = None
    #: The member was read, or failed to be; what was not asked at all costs it none of its growing intervals.
    counts: bool = True


class VerifyStore:
    """Claims and settles looks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        rows = self._rows = database.rows
        self._claim = _claim_statement(rows)
        given = rows.table(
            "given",
            {
                "id": BigInteger(),
                "epoch": BigInteger(),
                "state": Text(),
                "outcome": Text(),
                "next_check_at": Moment(),
                "moved_to": Text(),
                "checks": Integer(),
            },
        ).c
        now = bindparam("now", type_=Moment())
        over = given.state.is_not(None)
        gone = literal(str(ReconnectionState.GONE))
        self._settle = (
            update(reconnections)
            .where(r.id == given.id, r.epoch == given.epoch, r.state == written("notified"))
            .values(
                state=func.coalesce(given.state, r.state),
                closed_at=case((over, now), else_=r.closed_at),
                reopen_at=case((given.state == gone, literal(NEVER, Moment())), else_=r.reopen_at),
                outcome=given.outcome,
                outcome_at=now,
                next_check_at=given.next_check_at,
                checks=given.checks,
                moved_to=func.coalesce(given.moved_to, r.moved_to),
            )
            .returning(r.id)
        )
        ids = rows.table("given", {"id": BigInteger()}).c
        self._forget = (
            update(windows)
            .where(windows.c.reconnection_id == ids.id, windows.c.superseded_at.is_(None))
            .values(superseded_at=now, uri=None)
        )

    async def claim(self, n: int, *, now: datetime, again_at: datetime) -> list[MemberCheck]:
        """Take up to ``n`` reconnections that are to be looked at; if nothing comes of it they are again at ``again_at``."""

        async def work(connection: AsyncConnection) -> list[MemberCheck]:
            rows = await connection.execute(self._claim, {"n": n, "now": now, "again_at": again_at})
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
                )
                for row in rows
            ]

        return await self._database.transaction(work)

    async def settle(self, seen: Sequence[CheckResult], *, now: datetime) -> None:
        """Write what looks showed, but for those that were superseded."""
        given = self._rows.encode(
            {
                "id": s.check.id,
                "epoch": s.check.epoch,
                "state": s.state,
                "outcome": s.outcome,
                "next_check_at": s.next_check_at,
                "moved_to": s.moved_to,
                "checks": s.check.checks + s.counts,
            }
            for s in seen
        )

        async def work(connection: AsyncConnection) -> None:
            held = set((await connection.execute(self._settle, {"given": given, "now": now})).scalars())
            over = [s for s in seen if s.state is not None and s.check.id in held]
            if over:
                ids = self._rows.encode({"id": s.check.id} for s in over)
                await connection.execute(self._forget, {"given": ids, "now": now})
            await mark_well(connection, self._rows, [s.well for s in over if s.well is not None])

        await self._database.transaction(work)

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many looks could be taken now, counted no further than ``at_most``."""
        found = select(reconnections.c.id).where(_claimable(literal(now, Moment()))).limit(at_most).subquery()

        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(select(func.count()).select_from(found)) or 0)

        return await self._database.transaction(work)


def _claimable(now: Any) -> Any:
    paused = exists().where(pauses.c.scope.in_((EVERYTHING, MX)))
    return (r.state == written("notified")) & (r.next_check_at <= now) & ~paused


def _claim_statement(rows: Rows) -> Any:
    due = (
        select(r.id)
        .where(_claimable(bindparam("now", type_=Moment())))
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
