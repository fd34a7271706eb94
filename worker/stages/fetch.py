"""Fetch: a fresh OAuth window URI for every reconnection that is due, stored together with the message that follows from it.

1. Claim due reconnections and group them by user: one user gets one message about everything that is broken.
2. Defer those whose user may not be told now, before MX is asked: no URI should be minted that no user will see.
3. Ask MX for a window for each of the others. Do so with ``PUBLIC_BASE_URL`` too: the answer shows members that cannot be reconnected,
   and on Atrium those that are back. The message then carries our link; its first click gets the window, if it comes within ``URI_MAX_AGE``.
4. Store windows, states and the new message in one transaction. A failure that may be MX's is not stored before MX serves another call,
   or the breaker opens (:mod:`worker.stages.attribution`).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from worker.mx.answers import NO_USERS, NOT_MX, RetryLater, Window, WindowAnswer
from worker.mx.retrying import NOT_ASKED, begin_within
from worker.policy.mx_failures import OUR_FAULT, FailureKind
from worker.policy.states import ReconnectionState
from worker.runtime import Runtime
from worker.stages.attribution import Attribution, failure_of
from worker.stages.breaker import Breaker, Gate
from worker.stages.fetch_outcomes import FetchOutcomes, new_notification, word_of
from worker.stages.planning import SOON, Planner, UserJob, defer
from worker.stages.run_mode import RunMode
from worker.stages.runner import Batch, Runner, log_crash, summary
from worker.store.pauses import MX, PauseStore
from worker.store.reconnections.claims import ClaimedReconnection
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.fetch_results import FetchResult, UserResult

#: Reasons of a pause that doubt whether the server that answers is MX, and has our users.
_UNPROVEN = frozenset({NOT_MX, NO_USERS})
#: If MX asked us to wait longer than this, the run ends instead of waiting (seconds).
_SIT_OUT = 5.0
#: Running deliver tasks find new messages by themselves, so one is woken at most this often (seconds).
_WAKE_EVERY = 1.0
#: Claims under way at once.
_CLAIMS_AT_ONCE = 4

_S = ReconnectionState


class Fetch:
    """The stage, as the runner sees it."""

    def __init__(
        self,
        runtime: Runtime,
        breaker: Breaker,
        *,
        ends_at: float | None = None,
        mode: RunMode = RunMode.WORK,
        figures: Counter[str] | None = None,
    ) -> None:
        """``ends_at``: see :meth:`Runtime.run_ends_at`."""
        ends_at = runtime.run_ends_at() if ends_at is None else ends_at
        self._runtime = runtime
        self._settings = runtime.settings
        self._store = runtime.database.store(FetchStore)
        self._planner = Planner(self._settings, configured=runtime.channels.keys())
        self._breaker = breaker
        self._mode = mode
        #: Rows that the last claim took, and users for whom MX is asked.
        self.rows_claimed = 0
        self.users_asked = 0
        self._outcomes = FetchOutcomes(runtime)
        self._attribution = Attribution(breaker, probe=mode is RunMode.PROBE)
        #: Results with failures that may be MX's; they are not written yet.
        self._undecided: list[UserResult] = []
        #: Calls to MX under way, those for several banks of one user included.
        self._connections = asyncio.Semaphore(self._settings.mx_max_connections)
        #: How many claimed reconnections MX was not asked about yet.
        self._unasked = 0
        #: No window is asked for after this, so that a user with thousands of banks does not outlast the task.
        self._ask_until = ends_at + runtime.mx_deadline
        #: Whether messages were stored since deliver was woken last, and when that was.
        self._has_new_messages = False
        self._woken_at = float("-inf")
        self.figures: Counter[str] = Counter() if figures is None else figures
        self.runner = Runner(
            stage=self,
            slots=self._settings.mx_max_connections,
            batch=1 if mode is RunMode.PROBE else self._settings.batch_size,
            seconds=ends_at - time.monotonic(),
            renew_every=self._settings.lease_seconds / 3,
            stopping=runtime.stopping,
            # If a rate is set, it limits how much is claimed, and that limit only holds for one claim at a time.
            claims_at_once=1 if self._settings.mx_requests_per_second or mode is not RunMode.WORK else _CLAIMS_AT_ONCE,
        )

    async def claim(self, n: int) -> Batch[UserJob]:
        """Take due reconnections; those whose user cannot be told now are deferred without asking MX for anything."""
        now = self._runtime.clock.now()
        # Claim no more than pacing permits within one call's time, less what was claimed already.
        room = min(n, self._runtime.pacing.affordable(begin_within(self._runtime.mx_deadline)) - self._unasked)
        if room < 1:
            return await self._wait_for_room()
        claims = await self._take(room, now)
        self.rows_claimed = len(claims)
        longest_cap = max((cap.within for cap in self._settings.message_caps), default=timedelta(0))
        users = (
            await self._store.users({claim.user_guid for claim in claims}, since=now - longest_cap) if claims else {}
        )
        jobs, deferred = self._planner.plan(claims, users, now)
        if deferred:
            await self._store.settle(deferred, now=now)
            self._count(deferred)
        self.users_asked += len(jobs)
        self._unasked += sum(len(job.claims) for job in jobs)
        # A probe and a batch of poison are one claim each.
        return Batch(jobs, more_may_be_due=len(claims) >= room and self._mode is RunMode.WORK)

    async def _wait_for_room(self) -> Batch[UserJob]:
        """Pacing permits nothing right now: wait a moment, or end the run if MX asked us to wait long."""
        if self._runtime.pacing.blocked_for > _SIT_OUT:
            self.runner.halted = True
        else:
            await asyncio.sleep(0.2)
        return Batch((), more_may_be_due=True)

    async def _take(self, n: int, now: datetime) -> list[ClaimedReconnection]:
        worker_id, lease = self._runtime.worker_id, self._settings.lease_seconds
        if self._mode is RunMode.POISON:
            return await self._store.claim_poison(n, worker_id=worker_id, lease_seconds=lease, now=now)
        probe = self._mode is RunMode.PROBE
        return await self._store.claim(
            n, worker_id=worker_id, lease_seconds=lease, now=now, soon=now + SOON, probe=probe
        )

    async def work(self, job: UserJob) -> UserResult:
        """Ask MX for a window for each broken bank of this user."""
        claims = job.claims
        # Most users have one. A probe asks for one first, and for the others only if MX serves it.
        if self._mode is RunMode.PROBE:
            claims = tuple(sorted(claims, key=lambda claim: (claim.next_attempt_at, claim.id)))
        first = 1 if len(claims) == 1 or self._mode is RunMode.PROBE else 0
        results = [await self._ask(claim) for claim in claims[:first]]
        if len(claims) > first:
            results += await asyncio.gather(*map(self._ask_beside, claims[first:]))
        ready = [fetched.claim for fetched in results if fetched.state is _S.READY]
        return UserResult(results, new_notification(job, ready) if ready else None)

    async def _ask(self, claim: ClaimedReconnection) -> FetchResult:
        """Ask MX for one window, as soon as a connection is free."""
        async with self._connections:
            self._unasked -= 1
            answer = await self._runtime.mx.oauth_window(claim.user_guid, claim.asked_guid)
        if self._mode is RunMode.PROBE and await self._fails_alone(claim, answer):
            self._attribution.served()
        return self._classify(claim, answer)

    async def _fails_alone(self, claim: ClaimedReconnection, answer: WindowAnswer) -> bool:
        """Whether a probe failed because of its member alone. MX is asked only if this member failed an earlier probe of this pause. That
        means that no other member is due: a probe takes the member that waits longest, and defers it if it fails.
        """
        if isinstance(answer, Window) or failure_of(answer).kind is not FailureKind.UPSTREAM:
            return False
        since = self._breaker.since
        return since is not None and claim.next_attempt_at >= since and await _is_served(self._runtime, self._breaker)

    async def _ask_beside(self, claim: ClaimedReconnection) -> FetchResult:
        """Ask for one of several banks of a user; an error of one does not affect the others."""
        async with self._connections:
            self._unasked -= 1
            try:
                while self._may_ask():
                    answer = await self._runtime.mx.oauth_window(claim.user_guid, claim.asked_guid)
                    # It got no permit in time, because many banks of the same user were before it: ask again.
                    if not (isinstance(answer, RetryLater) and answer.code == NOT_ASKED and self._may_wait_on()):
                        return self._classify(claim, answer)
            except Exception as error:  # noqa: BLE001 - as in the runner: the user's other banks are asked for all the same
                log_crash(error)
                return self._outcomes.of_failure(claim, OUR_FAULT)
        if self.runner.halted:
            return defer(claim, claim.next_attempt_at, NOT_ASKED)
        return self._classify(claim, RetryLater(code=NOT_ASKED, upstream=False))

    def _may_ask(self) -> bool:
        return not self.runner.halted and time.monotonic() < self._ask_until

    def _may_wait_on(self) -> bool:
        """Whether MX did not ask us to wait long, and the process is not to stop."""
        return self._runtime.pacing.blocked_for <= _SIT_OUT and not self._runtime.stopping.is_set()

    def _classify(self, claim: ClaimedReconnection, answer: WindowAnswer) -> FetchResult:
        """The result of an answer of MX for a reconnection."""
        if isinstance(answer, Window):
            self._attribution.served()
            return self._outcomes.of_window(claim, answer)
        failure = failure_of(answer)
        if self._attribution.failed(failure, claim.id):
            self.runner.halted = True
            # The next probe takes another, so that no single member keeps MX paused for everybody.
            at = self._runtime.clock.now() if self._mode is RunMode.PROBE else claim.next_attempt_at
            return defer(claim, at, failure.code)
        return self._outcomes.of_failure(claim, failure)

    def crashed(self, job: UserJob) -> UserResult:
        """An error of this worker counts as an attempt, so that it cannot repeat for ever."""
        return UserResult([self._outcomes.of_failure(claim, OUR_FAULT) for claim in job.claims])

    async def settle(self, user_results: Sequence[UserResult]) -> None:
        """Write results, except failures that may still turn out to be MX's."""
        await self._settle([*user_results, *self._take_undecided()], certain=False)

    async def run(self) -> None:
        """One run. A failure that is undecided at its end counts as the member's."""
        await self.runner.run()
        if undecided := self._take_undecided():
            await self._settle(undecided, certain=True)
        if self._has_new_messages:
            await self._runtime.wake("deliver", 1)

    def _take_undecided(self) -> list[UserResult]:
        undecided, self._undecided = self._undecided, []
        return undecided

    async def _settle(self, user_results: Sequence[UserResult], *, certain: bool) -> None:
        now = self._runtime.clock.now()
        if self._breaker.tripped:
            user_results = [
                UserResult([self._unchanged_if_mx(fetched) for fetched in results], message)
                for results, message in user_results
            ]
        elif not certain:
            self._undecided = [result for result in user_results if self._may_be_mx(result)]
            user_results = [result for result in user_results if not self._may_be_mx(result)]
        await self._breaker.settle(now, probe=self._mode is RunMode.PROBE)
        self._has_new_messages |= await self._store.settle(user_results, now=now) > 0
        self._count(user_results)
        if self._has_new_messages and time.monotonic() >= self._woken_at + _WAKE_EVERY:
            self._has_new_messages, self._woken_at = False, time.monotonic()
            await self._runtime.wake("deliver", 1)

    def _may_be_mx(self, result: UserResult) -> bool:
        return any(self._attribution.may_be_mx(fetched.claim.id) for fetched in result.results)

    def _unchanged_if_mx(self, fetched: FetchResult) -> FetchResult:
        claim = fetched.claim
        mx_failed = self._attribution.was_mx(claim.id)
        return defer(claim, claim.next_attempt_at, fetched.outcome) if mx_failed else fetched

    def _count(self, user_results: Sequence[UserResult]) -> None:
        self.figures.update(word_of(fetched) for results, _ in user_results for fetched in results)

    async def release(self, jobs: Sequence[UserJob]) -> None:
        """Hand back."""
        await self._store.release([claim for job in jobs for claim in job.claims])

    async def renew(self, jobs: Sequence[UserJob]) -> None:
        """A user with many banks takes many calls, and undecided results wait."""
        claims = [claim for job in jobs for claim in job.claims]
        claims += [fetched.claim for results, _ in self._undecided for fetched in results]
        await self._store.renew(claims, lease_seconds=self._settings.lease_seconds)


async def _is_served(runtime: Runtime, breaker: Breaker) -> bool:
    """Whether MX serves us again; asks for a member that does not exist."""
    failure = await runtime.mx.probe()
    # A server that is not MX, or one without users, only counts as a failure if that was the reason of the pause.
    return failure is None or (failure.code in _UNPROVEN and breaker.reason not in _UNPROVEN)


async def fetch(runtime: Runtime) -> str:
    """One run of fetching; returns a short report."""
    ends_at = runtime.run_ends_at()
    started = await runtime.set_clock()
    breaker = Breaker(runtime.database.store(PauseStore), MX)
    gate = await breaker.admit(started)
    if gate is Gate.OPEN:
        return f"paused: {breaker.reason}"
    if breaker.reason in _UNPROVEN:
        runtime.mx.doubt()  # whichever process takes the probe
    stage = Fetch(runtime, breaker, ends_at=ends_at, mode=RunMode.PROBE if gate is Gate.PROBE else RunMode.WORK)
    await stage.run()
    if gate is Gate.PROBE and not stage.users_asked and await _is_served(runtime, breaker):
        # No reconnection could be the probe: none is due, or their users cannot be told now. Deliver and verify wait for MX, so it is asked.
        breaker.went_well()
        await breaker.settle(runtime.clock.now(), probe=True)
    more = stage.runner.has_more
    while not more and gate is Gate.CLOSED and time.monotonic() < ends_at and not runtime.stopping.is_set():
        poison = Fetch(runtime, breaker, ends_at=ends_at, mode=RunMode.POISON, figures=stage.figures)
        await poison.run()
        more = time.monotonic() >= ends_at
        if not poison.rows_claimed:
            break
    if (more or (gate is Gate.PROBE and not stage.runner.halted)) and not runtime.stopping.is_set():
        await runtime.wake("fetch", 1)
    return summary(stage.figures, runtime.clock.now() - started)
