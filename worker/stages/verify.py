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
from worker.policy.recovery import next_look
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.stages.breaker import Breaker
from worker.stages.recovered import well_by
from worker.stages.shift import Shift, Slice, summary
from worker.store.pauses import MX, PauseStore
from worker.store.verifying import Look, Seen, VerifyStore

log = structlog.get_logger()

#: A look that never came back, or that could not be made, is made again after this.
AGAIN_AFTER = timedelta(minutes=5)


class Verify:
    """The stage, as the shift sees it."""

    def __init__(self, runtime: Runtime, breaker: Breaker) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._store = runtime.database.store(VerifyStore)
        self._breaker = breaker
        self.figures: Counter[str] = Counter()
        self.shift = Shift(
            stage=self,
            slots=self._settings.mx_max_connections,
            batch=self._settings.batch_size,
            seconds=self._settings.shift_seconds,
            renew_every=self._settings.lease_seconds,
            stopping=runtime.stopping,
        )

    async def claim(self, n: int) -> Slice[Look]:
        """Take members that are to be looked at."""
        now = self._runtime.clock.now()
        looks = await self._store.claim(n, now=now, again_at=now + AGAIN_AFTER)
        return Slice(taken=len(looks), jobs=looks)

    async def work(self, look: Look) -> Seen:
        """Read one member."""
        answer = await self._runtime.mx.read_member(look.user_guid, look.asked_guid)
        now = self._runtime.clock.now()
        if not isinstance(answer, RetryLater | RefusedClient):
            self._breaker.went_well()
        match answer:
            case MemberRead(member=member):
                well = well_by(
                    member,
                    member_guid=look.member_guid,
                    broken_since=look.broken_since,
                    reason=look.reason,
                    skip_aggregation=self._settings.mx_skip_aggregation,
                )
                if well:
                    return Seen(look=look, state=ReconnectionState.RECONNECTED, outcome="back", well=well)
                moved = member.guid if member.guid != look.member_guid else None
                return Seen(
                    look=look, outcome="not_back", next_check_at=next_look(look.checks + 1, now), moved_to=moved
                )
            case Gone():
                return Seen(look=look, state=ReconnectionState.GONE, outcome=answer.code)
            case RefusedClient():
                self._breaker.refused(answer.code)
                self.shift.halted = True
                return Seen(look=look, outcome=answer.code, next_check_at=now + AGAIN_AFTER, counts=False)
            case RetryLater(code=code) if code == NOT_ASKED:
                return Seen(look=look, outcome=answer.code, next_check_at=now + AGAIN_AFTER, counts=False)
            case RetryLater(upstream=True) if self._breaker.failed(answer.code):
                self.shift.halted = True
        return Seen(look=look, outcome=answer.code, next_check_at=next_look(look.checks + 1, now))

    def crashed(self, job: Look) -> Seen:
        """A fault of ours: the next look is a new chance."""
        return Seen(
            look=job, outcome="internal_error", next_check_at=next_look(job.checks + 1, self._runtime.clock.now())
        )

    async def settle(self, done: Sequence[Seen]) -> None:
        """Write what was seen."""
        now = self._runtime.clock.now()
        await self._breaker.settle(now, probe=False)
        await self._store.settle(done, now=now)
        self.figures.update("reconnected" if s.state is ReconnectionState.RECONNECTED else s.outcome for s in done)

    async def release(self, jobs: Sequence[Look]) -> None:
        """Nothing to do: what was not looked at comes up again by itself."""

    async def renew(self, jobs: Sequence[Look]) -> None:
        """Nothing to do: looks are not leased."""


async def verify(runtime: Runtime) -> str:
    """One shift of verifying; returns a short report."""
    started = await runtime.set_clock()
    breaker = Breaker(runtime.database.store(PauseStore), MX)
    if await runtime.database.store(PauseStore).get(MX) is not None:
        return "paused"  # the fetch stage's probe finds out when MX serves us again
    stage = Verify(runtime, breaker)
    await stage.shift.run()
    if stage.shift.has_more and not runtime.stopping.is_set():
        await runtime.wake("verify", 1)
    return summary(stage.figures, runtime.clock.now() - started)
