"""Verify: find out which members are back.

After a message its members are checked at growing intervals: after 1 minute, 2, 5, 10 and so on, then daily. After a click they are
checked sooner: after 20 s, 40 s, 1 minute, 2, 5 and 10. If a member is back, its reconnection is closed as ``reconnected``, and no
reminder follows. The others already have the date of their next reminder, which was written when the last message ended.

The member of a notice works still. It is checked only after a click, and only if its date was reckoned, to find out whether its customer
renewed the consent.

A reconnection that is due is checked only after a click or the end of OAuth. Fetch asks MX about it, but not while its user may not be
told. Without this check, nobody would notice that an opted-out customer reconnected by the link of an older message.
"""

from collections import Counter
from collections.abc import Sequence

import structlog

from worker.mx.answers import MemberRead, MemberState
from worker.policy.mx_failures import NOT_SERVED, OUR_FAULT, RECHECK_AFTER, MxFailure, after_checking
from worker.policy.recovery import is_for_click, next_check, next_check_for_click
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.stages.attribution import Attribution, failure_of
from worker.stages.breaker import Breaker
from worker.stages.recovered import renewed_by, well_by
from worker.stages.runner import Batch, Runner, summary
from worker.store.pauses import MX, PauseStore
from worker.store.reconnections.checks import MemberCheck
from worker.store.transactions.verify import CheckResult, VerifyStore

log = structlog.get_logger()


class Verify:
    """The stage, as the runner sees it."""

    def __init__(self, runtime: Runtime, breaker: Breaker) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._store = runtime.database.store(VerifyStore)
        self._breaker = breaker
        self._attribution = Attribution(breaker)
        self.figures: Counter[str] = Counter()
        self.runner = Runner(
            stage=self,
            slots=self._settings.mx_max_connections,
            batch=self._settings.batch_size,
            seconds=self._settings.run_seconds,
            renew_every=self._settings.lease_seconds,
            stopping=runtime.stopping,
        )

    async def claim(self, n: int) -> Batch[MemberCheck]:
        """Take members whose check is due."""
        now = self._runtime.clock.now()
        checks = await self._store.claim(n, now=now, again_at=now + RECHECK_AFTER)
        return Batch(checks, more_may_be_due=len(checks) >= n)

    async def work(self, check: MemberCheck) -> CheckResult:
        """Read one member."""
        answer = await self._runtime.mx.read_member(check.user_guid, check.asked_guid)
        if not isinstance(answer, MemberRead):
            failure = failure_of(answer)
            self.runner.halted |= self._attribution.failed(failure, check.id)
            return self._result_of_failure(check, failure)
        self._attribution.served()
        member = answer.member
        if check.reason == Reason.EXPIRES_SOON:
            return self._of_notice(check, member)
        well = well_by(
            member,
            member_guid=check.member_guid,
            broken_since=check.broken_since,
            reason=check.reason,
            skip_aggregation=self._settings.mx_skip_aggregation,
        )
        if well:
            return CheckResult(check=check, state=ReconnectionState.RECONNECTED, outcome="back", well=well)
        moved = member.guid if member.guid != check.member_guid else None
        now, clicked_at = self._runtime.clock.now(), check.clicked_at
        if check.state is ReconnectionState.DUE:
            at = next_check_for_click(now, clicked_at=clicked_at)
            return CheckResult(check=check, outcome="not_back", next_check_at=at, moved_to=moved, counts=False)
        counts = not is_for_click(now, clicked_at=clicked_at)
        at = next_check(check.checks + counts, now, clicked_at=clicked_at)
        return CheckResult(check=check, outcome="not_back", next_check_at=at, moved_to=moved, counts=counts)

    def _of_notice(self, check: MemberCheck, member: MemberState) -> CheckResult:
        """The result for the member of a notice: whether its customer renewed the consent since the click."""
        well = renewed_by(member, member_guid=check.member_guid, clicked_at=check.clicked_at)
        if well:
            return CheckResult(check=check, state=ReconnectionState.RECONNECTED, outcome="renewed", well=well)
        at = next_check_for_click(self._runtime.clock.now(), clicked_at=check.clicked_at)
        return CheckResult(check=check, outcome="not_back", next_check_at=at, counts=False)

    def _result_of_failure(self, check: MemberCheck, failure: MxFailure) -> CheckResult:
        """The result of a check that could not read the member."""
        now = self._runtime.clock.now()
        end_or_recheck = after_checking(failure, checks=check.checks, now=now, clicked_at=check.clicked_at)
        if isinstance(end_or_recheck, ReconnectionState):
            return CheckResult(check=check, state=end_or_recheck, outcome=failure.code)
        if check.reason == Reason.EXPIRES_SOON or check.state is ReconnectionState.DUE:
            at = next_check_for_click(now, clicked_at=check.clicked_at)
            if at is None and failure.kind in NOT_SERVED:  # nothing else asks: repeat the last check
                at = end_or_recheck.at
            return CheckResult(check=check, outcome=failure.code, next_check_at=at, counts=end_or_recheck.counts)
        return CheckResult(
            check=check, outcome=failure.code, next_check_at=end_or_recheck.at, counts=end_or_recheck.counts
        )

    def crashed(self, job: MemberCheck) -> CheckResult:
        """An error of this worker: the member is checked again after the next interval."""
        return self._result_of_failure(job, OUR_FAULT)

    async def settle(self, results: Sequence[CheckResult]) -> None:
        """Write results."""
        now = self._runtime.clock.now()
        await self._breaker.settle(now, probe=False)
        await self._store.settle(results, now=now)
        self.figures.update(
            "reconnected" if result.state is ReconnectionState.RECONNECTED else result.outcome for result in results
        )

    async def release(self, jobs: Sequence[MemberCheck]) -> None:
        """Nothing to do: a check that was claimed and not made is due again after :data:`RECHECK_AFTER`."""

    async def renew(self, jobs: Sequence[MemberCheck]) -> None:
        """Nothing to do: checks are not leased."""


async def verify(runtime: Runtime) -> str:
    """One run of verifying; returns a short report."""
    started = await runtime.set_clock()
    breaker = Breaker(runtime.database.store(PauseStore), MX)
    if await runtime.database.store(PauseStore).get(MX) is not None:
        return "paused"  # the fetch stage's probe finds out when MX serves us again
    stage = Verify(runtime, breaker)
    await stage.runner.run()
    if stage.runner.has_more and not runtime.stopping.is_set():
        await runtime.wake("verify", 1)
    return summary(stage.figures, runtime.clock.now() - started)
