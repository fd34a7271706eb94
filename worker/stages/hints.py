"""Hints: read the members that MX's webhooks named, and act on MX's answer.

A hint may be a day late, doubled or out of order. So its content is not used: a DENIED that comes after the customer is back opens
nothing, because MX's answer to the reading is CONNECTED.

1. Recover the hints of dead workers. Delete hints that are finished and were last received more than two days ago.
2. Claim due hints, all of a member together, and read each member once.
3. Apply MX's answers and finish the hints in one transaction (``store/transactions/hints.py``). The reconnection of a member that is
   back is closed there; a member that MX does not know any more is gone.
4. Close and open reconnections of these members as a sweep would (``store/transactions/catch_up.py``), look for a burst of breaks of
   one institution as a sweep does, and wake fetch.

============================================ =======================================================================
MX answers                                   the hint is
============================================ =======================================================================
the member                                   `done`
404                                          `done`, and the member is gone; its reconnection ends unless it is leased
401, 403, 406: MX refuses everybody          due as it was; the breaker opens, and the run ends
429, or pacing sent nothing in time          due after ``Retry-After`` and up to a minute; no attempt is counted
5xx, a timeout, half a body, 409             due by the schedule of ``policy/retries.py``; `failed` after ``MAX_ATTEMPTS``
another 4xx, a redirect                      `failed`
============================================ =======================================================================

A failure streak of MX opens the breaker, and no attempt of it is counted, as in fetch (:mod:`worker.stages.attribution`).
"""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import structlog

from worker.mx.answers import Member, MemberRead
from worker.policy.hint_states import HintState
from worker.policy.mx_failures import ASKED_AGAIN, OUR_FAULT, UNCOUNTED, FailureKind, MxFailure
from worker.policy.retries import next_attempt
from worker.runtime import Runtime
from worker.stages.attribution import Attribution, failure_of
from worker.stages.breaker import Breaker
from worker.stages.mx_words import mx_member
from worker.stages.runner import Batch, Runner, summary
from worker.stages.sweep import watch_outages
from worker.store.from_mx.answers import MxMember
from worker.store.hints.claimed import ClaimedHints, HintResult, Target
from worker.store.hints.claims import READS_APART
from worker.store.pauses import MX, PauseStore
from worker.store.sql.database import Database
from worker.store.transactions.catch_up import CatchUpStore
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.hints import HintStore, Reading

log = structlog.get_logger()

#: Seconds between two wakes of fetch within a run; before each, bursts of breaks are looked for.
_WAKE_EVERY = 1.0

#: The result of reading one member: MX's answer, ``None`` if MX does not know the member, or the failure.
_Read = Member | None | MxFailure


class Hints:
    """The stage, as the runner sees it."""

    def __init__(
        self,
        runtime: Runtime,
        breaker: Breaker,
        *,
        ends_at: float,
        poison: bool = False,
        figures: Counter[str] | None = None,
    ) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._store = runtime.database.store(HintStore)
        statuses, days = self._settings.reconnect_statuses, self._settings.expiry_notice_days
        self._catching_up = runtime.database.store(CatchUpStore, statuses=statuses, notice_days=days)
        self._breaker = breaker
        self._attribution = Attribution(breaker)
        self._poison = poison
        #: Numbers claims for the attribution, by the key of their first hint.
        self._numbers: dict[str, int] = {}
        #: Results with failures that may be MX's; they are not written yet.
        self._undecided: list[Reading] = []
        self._opened = False
        self._woken_at = float("-inf")
        #: Rows that the last claim took.
        self.rows_claimed = 0
        self.figures: Counter[str] = Counter() if figures is None else figures
        self.runner = Runner(
            stage=self,
            slots=self._settings.mx_max_connections,
            batch=self._settings.batch_size,
            seconds=ends_at - time.monotonic(),
            renew_every=self._settings.lease_seconds / 3,
            stopping=runtime.stopping,
        )

    async def claim(self, n: int) -> Batch[ClaimedHints]:
        """Take due hints; those of one member are one job."""
        claims = await self._store.claim(
            n,
            worker_id=self._runtime.worker_id,
            lease_seconds=self._settings.lease_seconds,
            now=self._runtime.clock.now(),
            poison=self._poison,
        )
        self.rows_claimed = sum(len(claim.fences) for claim in claims)
        return Batch(claims, more_may_be_due=self.rows_claimed >= n and not self._poison)

    async def work(self, claim: ClaimedHints) -> Reading:
        """Read the hinted member, or all known members of the hinted user."""
        read_at = self._runtime.clock.now()
        if not claim.targets:
            return _nothing_read(claim, "no_user" if claim.guid.startswith("MBR-") else "no_member", read_at)
        answers: list[MxMember] = []
        own_users: dict[str, str] = {}
        gone: list[str] = []
        failure: MxFailure | None = None
        for target in claim.targets:
            read = await self._read(claim, target)
            if isinstance(read, MxFailure):
                # If MX fails for one member, the user's others are still read. A failure of MX as a whole ends the reading.
                if read.kind in UNCOUNTED:
                    failure = read
                    break
                failure = failure or read
            elif read is not None:
                answers.append(mx_member(read, user_guid=target.user_guid, asked_guid=target.row_guid))
                if read.user_id is not None and target.row_guid is None:
                    own_users[read.guid] = read.user_id
            elif target.row_guid is not None and claim.same_user:
                gone.append(target.row_guid)
        if failure is not None:
            result = self._failed(claim, failure, read_at).result
        else:
            result = HintResult(
                claim=claim, outcome=_outcome_of(answers) if answers else "gone" if gone else "unknown_to_mx"
            )
        return Reading(result=result, read_at=read_at, answers=tuple(answers), gone=tuple(gone), own_users=own_users)

    async def _read(self, claim: ClaimedHints, target: Target) -> _Read:
        answer = await self._runtime.mx.read_member(target.user_guid, target.asked_guid)
        if isinstance(answer, MemberRead):
            self._attribution.served()
            return answer.member
        failure = failure_of(answer)
        number = self._numbers.setdefault(claim.fences[0].key, len(self._numbers))
        if self._attribution.failed(failure, number):
            self.runner.halted = True
            return MxFailure(kind=FailureKind.REFUSED, code=failure.code)
        return None if failure.kind is FailureKind.GONE else failure

    def _failed(self, claim: ClaimedHints, failure: MxFailure, read_at: datetime) -> Reading:
        now, rng = self._runtime.clock.now(), self._runtime.rng
        if failure.kind is FailureKind.REFUSED:
            return _due_again(claim, failure.code, now, read_at, attempts=claim.attempts)
        if failure.kind in UNCOUNTED:
            at = next_attempt(1, now=now, rng=rng, after=failure.after)
            return _due_again(claim, failure.code, at, read_at, attempts=claim.attempts)
        attempts = claim.attempts + 1
        if failure.kind not in ASKED_AGAIN or attempts >= self._settings.max_attempts:
            result = HintResult(claim=claim, outcome=failure.code, state=HintState.FAILED, attempts=attempts)
            return Reading(result=result, read_at=read_at)
        patient = failure.code == "http_503"
        at = next_attempt(attempts, now=now, rng=rng, after=failure.after, patient=patient)
        return _due_again(claim, failure.code, at, read_at, attempts=attempts)

    def crashed(self, job: ClaimedHints) -> Reading:
        """An error of this worker counts as an attempt, so that it cannot repeat for ever."""
        return self._failed(job, OUR_FAULT, self._runtime.clock.now())

    async def settle(self, readings: Sequence[Reading]) -> None:
        """Write results, except failures that may still turn out to be MX's."""
        await self._settle([*readings, *self._take_undecided()], certain=False)

    async def run(self) -> None:
        """One run. A failure that is undecided at its end counts as the hint's own."""
        await self.runner.run()
        if undecided := self._take_undecided():
            await self._settle(undecided, certain=True)
        await self._wake_fetch()

    def _take_undecided(self) -> list[Reading]:
        undecided, self._undecided = self._undecided, []
        return undecided

    async def _settle(self, readings: Sequence[Reading], *, certain: bool) -> None:
        now = self._runtime.clock.now()
        if self._breaker.tripped:
            readings = [self._unchanged_if_mx(reading, now) for reading in readings]
        elif not certain:
            self._undecided = [reading for reading in readings if self._may_be_mx(reading)]
            readings = [reading for reading in readings if not self._may_be_mx(reading)]
        await self._breaker.settle(now, probe=False)
        if not readings:
            return
        for reading in readings:
            if reading.result.state is HintState.FAILED:
                log.warning("hint_failed", hinted=reading.result.claim.guid, outcome=reading.result.outcome)
        applied = await self._store.settle(readings, now=now, skip_aggregation=self._settings.mx_skip_aggregation)
        self.figures.update("read" if reading.answers else reading.result.outcome for reading in readings)
        guids = {name for reading in readings for answer in reading.answers for name in _names(answer, reading)}
        grace = self._settings.notify_after.total_seconds()
        closed, opened = await self._catching_up.catch_up(guids, now, grace_seconds=grace)
        self.figures.update({"back": applied.back + closed, "opened": opened})
        self._opened |= opened > 0
        if time.monotonic() >= self._woken_at + _WAKE_EVERY:
            await self._wake_fetch()

    async def _wake_fetch(self) -> None:
        """Wake fetch, but look for bursts first: if a whole institution broke, its users are not told yet."""
        if not self._opened:
            return
        self._opened, self._woken_at = False, time.monotonic()
        now = self._runtime.clock.now()
        await watch_outages(self._runtime, now)
        if await self._runtime.database.store(FetchStore).due(now, at_most=1):
            await self._runtime.wake("fetch", 1)

    def _number(self, reading: Reading) -> int:
        return self._numbers.get(reading.result.claim.fences[0].key, -1)

    def _may_be_mx(self, reading: Reading) -> bool:
        return reading.result.state is not HintState.DONE and self._attribution.may_be_mx(self._number(reading))

    def _unchanged_if_mx(self, reading: Reading, now: datetime) -> Reading:
        result = reading.result
        if result.state is HintState.DONE or not self._attribution.was_mx(self._number(reading)):
            return reading
        return _due_again(result.claim, result.outcome, now, reading.read_at, attempts=result.claim.attempts)

    async def release(self, jobs: Sequence[ClaimedHints]) -> None:
        """Hand back."""
        await self._store.release(jobs)

    async def renew(self, jobs: Sequence[ClaimedHints]) -> None:
        """A user with many members takes many calls, and undecided results wait."""
        claims = [*jobs, *(reading.result.claim for reading in self._undecided)]
        await self._store.renew(claims, lease_seconds=self._settings.lease_seconds)


def _due_again(claim: ClaimedHints, outcome: str, at: datetime, read_at: datetime, *, attempts: int) -> Reading:
    result = HintResult(claim=claim, outcome=outcome, state=HintState.DUE, next_attempt_at=at, attempts=attempts)
    return Reading(result=result, read_at=read_at)


def _nothing_read(claim: ClaimedHints, outcome: str, read_at: datetime) -> Reading:
    return Reading(result=HintResult(claim=claim, outcome=outcome), read_at=read_at)


def _outcome_of(answers: Sequence[MxMember]) -> str:
    """The outcome of a hint that was read: the member's status, if it is one member."""
    return (answers[0].connection_status if len(answers) == 1 else None) or "read"


def _names(answer: MxMember, reading: Reading) -> set[str]:
    """Every GUID or own id under which our tables may have the member."""
    rows = (target.row_guid for target in reading.result.claim.targets)
    return {name for name in (answer.member_guid, answer.asked_guid, answer.own_id, *rows) if name is not None}


async def hints(runtime: Runtime, *, ends_at: float | None = None) -> str:
    """One run of reading hinted members; returns a short report. ``ends_at``: see :meth:`Runtime.run_ends_at`."""
    ends_at = runtime.run_ends_at() if ends_at is None else ends_at
    started = await runtime.set_clock()
    database: Database = runtime.database
    store = database.store(HintStore)
    if recovered_rows := await store.recover(started):
        log.warning("hints_recovered", rows=recovered_rows)
    if await database.store(PauseStore).get(MX) is not None:
        return "paused"  # the fetch stage's probe finds out when MX serves us again
    breaker = Breaker(database.store(PauseStore), MX)
    stage = Hints(runtime, breaker, ends_at=ends_at)
    await stage.run()
    more = stage.runner.has_more
    while not more and not stage.runner.halted and time.monotonic() < ends_at and not runtime.stopping.is_set():
        poison = Hints(runtime, breaker, ends_at=ends_at, poison=True, figures=stage.figures)
        await poison.run()
        more = time.monotonic() >= ends_at
        if not poison.rows_claimed:
            break
    if more and not runtime.stopping.is_set():
        await runtime.wake("sync", 1)
    elif await store.due(runtime.clock.now(), at_most=1):  # hints about members that were read a moment ago
        runtime.delayed_wakes.plan("sync", [READS_APART])
    return summary(+stage.figures, runtime.clock.now() - started)
