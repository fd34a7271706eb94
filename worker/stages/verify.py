"""Verify: learn who came back.

Told customers are looked at with growing intervals; who is back is closed as ``reconnected``, and with that every reminder falls
silent. The reminders of the others are laid already, when a message ends.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import structlog

from worker.mx.answers import Gone, MemberRead, RefusedClient, RetryLater
from worker.mx.persistence import NOT_ASKED
from worker.policy.recovery import next_check
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.stages.breaker import Breaker
from worker.stages.recovered import well_by
from worker.stages.runner import Batch, Runner, summary
from worker.store.pauses import MX, PauseStore
from worker.store.verifying import CheckResult, MemberCheck, VerifyStore

log = structlog.get_logger()

#: A look that never came back, or that could not be made, is made again after this.
AGAIN_AFTER = timedelta(minutes=5)


class Verify:
    """The stage, as the runner sees it."""

    def __init__(self, runtime: Runtime, breaker: Breaker) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._store = runtime.database.store(VerifyStore)
        self._breaker = breaker
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
        """Take members that are to be looked at."""
        now = self._runtime.clock.now()
        checks = await self._store.claim(n, now=now, again_at=now + AGAIN_AFTER)
        return Batch(taken=len(checks), jobs=checks)

    async def work(self, check: MemberCheck) -> CheckResult:
        """Read one member."""
        answer = await self._runtime.mx.read_member(check.user_guid, check.asked_guid)
        now = self._runtime.clock.now()
        if not isinstance(answer, RetryLater | RefusedClient):
            self._breaker.went_well()
        match answer:
            case MemberRead(member=member):
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
                return CheckResult(
                    check=check, outcome="not_back", next_check_at=next_check(check.checks + 1, now), moved_to=moved
                )
            case Gone():
                return CheckResult(check=check, state=ReconnectionState.GONE, outcome=answer.code)
            case RefusedClient():
                self._breaker.refused(answer.code)
                self.runner.halted = True
                return CheckResult(check=check, outcome=answer.code, next_check_at=now + AGAIN_AFTER, counts=False)
            case RetryLater(code=code) if code == NOT_ASKED:
                return CheckResult(check=check, outcome=answer.code, next_check_at=now + AGAIN_AFTER, counts=False)
            case RetryLater(upstream=True) if self._breaker.failed(answer.code):
                self.runner.halted = True
        return CheckResult(check=check, outcome=answer.code, next_check_at=next_check(check.checks + 1, now))

    def crashed(self, job: MemberCheck) -> CheckResult:
        """A fault of ours: the next look is a new chance."""
        return CheckResult(
            check=job, outcome="internal_error", next_check_at=next_check(job.checks + 1, self._runtime.clock.now())
        )

    async def settle(self, done: Sequence[CheckResult]) -> None:
        """Write what was seen."""
        now = self._runtime.clock.now()
        await self._breaker.settle(now, probe=False)
        await self._store.settle(done, now=now)
        self.figures.update("reconnected" if s.state is ReconnectionState.RECONNECTED else s.outcome for s in done)

    async def release(self, jobs: Sequence[MemberCheck]) -> None:
        """Nothing to do: what was not looked at comes up again by itself."""

    async def renew(self, jobs: Sequence[MemberCheck]) -> None:
        """Nothing to do: looks are not leased."""


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
