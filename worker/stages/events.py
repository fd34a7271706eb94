"""Events: tell the application what happened, signed, in order for each user, at least once.

An event is accepted by any 2xx within 15 s. Everything else is a failure: another status, a redirect, no answer. The schedule of
retries is in :mod:`worker.policy.event_retries`.

**The breaker.** A fault of the endpoint as a whole stops all workers, and no event's attempt is counted:

| what happens | the breaker opens, and one event is tried again |
|---|---|
| ten failures in a row; or an event failed twice and no event was accepted in between | after 1 minute; after 10 s if the endpoint cannot be reached |
| 429, or 503 with ``Retry-After`` | after as long as ``Retry-After`` says, at most an hour; 1 minute without it |
| 410: the endpoint wants no more events | after an hour |

New events are stored meanwhile and wait. The breaker closes when a probe's event is accepted.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic

import msgspec
import structlog

from worker.endpoint import CONNECTIONS, Answer, Endpoint
from worker.policy import events as policy
from worker.policy.event_retries import SOON, after_failure, counts_as_attempt
from worker.runtime import Runtime
from worker.stages.breaker import PROBE_EVERY, PROBE_SOON, Breaker, Gate, log_stopped
from worker.stages.runner import Batch, Runner, summary
from worker.store.events.queue import ACCEPTED, FAILED, WAITING, ClaimedEvent, EventResult, EventStore
from worker.store.pauses import EVENTS, PauseStore
from worker.store.refusals import NOT_REACHED

log = structlog.get_logger()

#: This many failures in a row open the breaker.
STREAK = 10
#: How long one job posts the events of one user, before it hands back the rest.
LONGEST = timedelta(seconds=30)
_GONE, _TOO_MANY, _UNAVAILABLE = "http_410", "http_429", "http_503"
_LONGEST_PAUSE = timedelta(hours=1)

#: The events of one user or outage, in order.
Job = Sequence[ClaimedEvent]


class Posted(msgspec.Struct, frozen=True):
    """One event, and the endpoint's answer."""

    event: ClaimedEvent
    began: datetime
    ended: datetime
    answer: Answer


class JobResult(msgspec.Struct, frozen=True):
    """The result of a job: the events that were posted, and those that are left for later."""

    posted: Sequence[Posted]
    unposted: Sequence[ClaimedEvent]


class Events:
    """The stage, as the runner sees it."""

    def __init__(self, runtime: Runtime, endpoint: Endpoint, *, ends_at: float, probe: bool = False) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._settings = runtime.settings
        self._store = runtime.database.store(EventStore)
        self._pauses = runtime.database.store(PauseStore)
        self._probe = probe
        self._failing = 0
        #: Why the breaker opens, and for how long.
        self._pause: tuple[str, timedelta] | None = None
        self.accepted = False
        self.figures: Counter[str] = Counter()
        self.runner = Runner(
            stage=self,
            slots=CONNECTIONS,
            batch=self._settings.batch_size,
            seconds=ends_at - monotonic(),
            renew_every=self._settings.lease_seconds / 3,
            stopping=runtime.stopping,
        )

    async def claim(self, n: int) -> Batch[Job]:
        """Take the due events of ``n`` users. A probe also takes what is due within 20 s, such as the event that failed last."""
        ahead = 2 * SOON if self._probe else timedelta(0)
        jobs = await self._store.lease(
            n,
            worker_id=self._runtime.worker_id,
            lease_seconds=self._settings.lease_seconds,
            now=self._runtime.clock.now() + ahead,
            probe=self._probe,
        )
        return Batch(jobs, more_may_be_due=len(jobs) >= n)

    async def work(self, job: Job) -> JobResult:
        """Post the events of one user, each after the one before it was accepted."""
        clock, posted = self._runtime.clock, []
        until = clock.now() + LONGEST
        for place, event in enumerate(job):
            began = clock.now()
            if place and (began > until or self.runner.halted or self._runtime.stopping.is_set()):
                break
            timestamp = event.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            body = policy.body(event.type, event.event_id, event.id, timestamp, event.data)
            answer = await self._endpoint.post(event.event_id, body, began)
            posted.append(Posted(event, began, clock.now(), answer))
            if not answer.accepted:
                self._failed(answer)
                break
            self._failing, self.accepted = 0, True
        return JobResult(posted, job[len(posted) :])

    def _failed(self, answer: Answer) -> None:
        self._failing += 1
        asked_to_wait = answer.code == _UNAVAILABLE and answer.retry_after is not None
        if self._failing >= STREAK or self._probe or asked_to_wait or answer.code in {_GONE, _TOO_MANY}:
            self._trip(answer)

    def _trip(self, answer: Answer) -> None:
        self.runner.halted = True
        if answer.code == _GONE:
            self._pause = f"the endpoint wants no more events ({_GONE})", _LONGEST_PAUSE
        elif answer.unreachable:
            self._pause = f"the endpoint {NOT_REACHED}: {answer.code}", PROBE_SOON
        else:
            wait = PROBE_EVERY if answer.retry_after is None else timedelta(seconds=answer.retry_after)
            self._pause = (
                f"the endpoint accepts no events: {answer.code}",
                min(max(wait, timedelta(seconds=1)), _LONGEST_PAUSE),
            )

    def crashed(self, job: Job) -> JobResult:
        """An error of this worker counts as a failure of the first event, which is retried by the usual schedule."""
        now = self._runtime.clock.now()
        return JobResult([Posted(job[0], now, now, Answer(accepted=False, code="crashed"))], job[1:])

    async def settle(self, job_results: Sequence[JobResult]) -> None:
        """Write results, and hand back what was not posted."""
        posted = [each for job_result in job_results for each in job_result.posted]
        results = [_accepted(each) for each in posted if each.answer.accepted]
        if failed := [each for each in posted if not each.answer.accepted]:
            last_accepted_at = max((each.ended for each in posted if each.answer.accepted), default=None)
            stored = await self._store.last_accepted_at()
            last_accepted_at = max(
                (moment for moment in (last_accepted_at, stored) if moment is not None), default=None
            )
            results += [self._not_accepted(each, last_accepted_at) for each in failed]
        if self._pause is not None:
            (reason, wait), self._pause = self._pause, None
            now = self._runtime.clock.now()
            if await self._pauses.set(EVENTS, reason, now=now, probe_after=wait):
                log_stopped(EVENTS, reason)
            self._runtime.delayed_wakes.plan("events", (wait.total_seconds(),))
        await self._store.settle(results)
        await self._store.release([event for job_result in job_results for event in job_result.unposted])
        self.figures.update(result.state if result.state != WAITING else "retry" for result in results)
        self._wake_for([result for result in results if result.next_attempt_at is not None])

    def _not_accepted(self, posted: Posted, last_accepted_at: datetime | None) -> EventResult:
        event, answer, now = posted.event, posted.answer, self._runtime.clock.now()
        counts = counts_as_attempt(event.tried_at, last_accepted_at)
        if event.tried_at is not None and not counts:
            self._trip(answer)
        retry = after_failure(
            event.attempts, counts=counts, now=now, rng=self._runtime.rng, retry_after=answer.retry_after
        )
        if retry.at is None:
            log.error(
                "event_given_up",
                id=event.event_id,
                type=event.type,
                outcome=answer.code,
                what_to_do="see `reconnect events`; `reconnect events --replay --failed` posts it again",
            )
        return EventResult(
            id=event.id,
            epoch=event.epoch,
            state=FAILED if retry.at is None else WAITING,
            outcome=answer.code,
            tried_at=posted.began,
            attempts=retry.attempts,
            next_attempt_at=retry.at,
        )

    def _wake_for(self, retries: Sequence[EventResult]) -> None:
        """Wake the stage for retries of the next 10 minutes, so that they do not wait for a sweep."""
        now = self._runtime.clock.now()
        waits = {(result.next_attempt_at - now).total_seconds() for result in retries if result.next_attempt_at}
        self._runtime.delayed_wakes.plan("events", (wait for wait in waits if wait <= _SOON_ENOUGH))

    async def release(self, jobs: Sequence[Job]) -> None:
        """Hand back. An event that was posted but not settled is posted again; receivers recognise it by its id."""
        await self._store.release([event for job in jobs for event in job])

    async def renew(self, jobs: Sequence[Job]) -> None:
        """A slow endpoint may take longer than a lease for a whole batch."""
        events = [event for job in jobs for event in job]
        await self._store.renew(events, lease_seconds=self._settings.lease_seconds)


#: A retry that is due within this time gets its own wake (seconds).
_SOON_ENOUGH = 600.0


def _accepted(posted: Posted) -> EventResult:
    return EventResult(
        id=posted.event.id,
        epoch=posted.event.epoch,
        state=ACCEPTED,
        outcome=posted.answer.code,
        tried_at=posted.began,
        attempts=posted.event.attempts,
        accepted_at=posted.ended,
    )


async def events(runtime: Runtime) -> str:
    """One run of posting events; returns a short report."""
    endpoint = runtime.endpoint
    if endpoint is None:
        return "EVENTS_URL is not set"
    ends_at = runtime.run_ends_at()
    started = await runtime.set_clock()
    pauses = runtime.database.store(PauseStore)
    gate = await Breaker(pauses, EVENTS).admit(started)
    if gate is Gate.OPEN:
        return "paused"
    if gate is Gate.PROBE and not await _probe(runtime, endpoint, pauses, ends_at=ends_at):
        return "paused"
    stage = Events(runtime, endpoint, ends_at=ends_at)
    await stage.runner.run()
    if not stage.runner.halted and not runtime.stopping.is_set():
        # Events of a user wait while others of that user are under way, so some may have become free since the last claim.
        store, now = runtime.database.store(EventStore), runtime.clock.now()
        if stage.runner.has_more or await store.due(now, at_most=1):
            await runtime.wake("events", 1)
    return summary(stage.figures, runtime.clock.now() - started)


async def _probe(runtime: Runtime, endpoint: Endpoint, pauses: PauseStore, *, ends_at: float) -> bool:
    """Post one user's events although the breaker is open. If one is accepted, the breaker closes."""
    stage = Events(runtime, endpoint, ends_at=ends_at, probe=True)
    batch = await stage.claim(1)
    for job in batch.jobs:
        try:
            job_result = await stage.work(job)
        except BaseException:
            await stage.release([job])
            raise
        await stage.settle([job_result])
    if stage.accepted and await pauses.lift(EVENTS):
        log.info("resumed", scope=EVENTS)
    return stage.accepted
