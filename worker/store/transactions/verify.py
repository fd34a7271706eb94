"""The transactions of the verify stage."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from worker.policy.states import Mover, ReconnectionState
from worker.store.members import Well
from worker.store.reconnections.changes import Change, checked, close
from worker.store.reconnections.checks import MemberCheck, MemberChecks
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.database import Database
from worker.store.sql.moments import NEVER


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check."""

    check: MemberCheck
    outcome: str
    #: The state in which the reconnection ends; ``None``: it stays open.
    state: ReconnectionState | None = None
    next_check_at: datetime | None = None
    moved_to: str | None = None
    #: MX's answer, if it ended as reconnected.
    well: Well | None = None
    #: Whether this counts as a check, so that the interval to the next one grows. Not if MX was not asked at all.
    counts: bool = True


class VerifyStore:
    """Claims and settles checks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._checks = database.rows.part(MemberChecks)
        self._transitions = database.rows.part(Transitions)

    async def claim(self, n: int, *, now: datetime, again_at: datetime) -> list[MemberCheck]:
        """Take up to ``n`` reconnections whose check is due, and set their next check to ``again_at``.

        If this check is lost, it is made again then.
        """
        return await self._database.transaction(
            lambda connection: self._checks.take(connection, n, now=now, again_at=again_at)
        )

    async def settle(self, results: Sequence[CheckResult], *, now: datetime) -> None:
        """Write the results of checks, except for reconnections that were claimed or reminded since."""
        changes = [_change(result, now) for result in results]
        await self._database.transaction(
            lambda connection: self._transitions.apply(connection, changes, by=Mover.VERIFY, now=now)
        )

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many members could be read now, counted no further than ``at_most``."""
        return await self._database.transaction(lambda connection: self._checks.due(connection, now, at_most=at_most))


def _change(result: CheckResult, now: datetime) -> Change:
    check, checks = result.check, result.check.checks + result.counts
    if result.state is None:
        return checked(
            check.id,
            check.state,
            check.epoch,
            again_at=check.again_at,
            # The outcome of a due reconnection tells why it waits, so it is kept.
            outcome=None if check.state is ReconnectionState.DUE else result.outcome,
            next_check_at=result.next_check_at,
            moved_to=result.moved_to,
            checks=checks,
        )
    return close(
        check.id,
        check.state,
        result.state,
        now=now,
        well=result.well,
        epoch=check.epoch,
        outcome=result.outcome,
        reopen_at=NEVER if result.state is ReconnectionState.GONE else None,
        moved_to=result.moved_to,
        checks=checks,
    )
