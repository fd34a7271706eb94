"""The runner: how fetch, deliver, verify, hints, events and sync work through what is due.

It claims a batch of due rows, works on them concurrently, writes results in one transaction, and claims the next batch as soon as
slots become free, so that one slow answer never delays the rest.

    claim ──▶ waiting ──▶ working (at most ``slots``) ──▶ done ──▶ settle
                 └──────────────┴──▶ release, if the runner ends before

**Two kinds of loop share the fields.** The main loop (:meth:`Runner.run`) alone asks the stage to claim, settle, renew and release.
Slots (:meth:`Runner._work_on`) do the jobs; a free slot takes the next waiting job itself, without waiting for the main
loop. All of them run on one event loop and change fields only between two ``await``, so there is no lock.

================== ============================================================ ==========================================
field              holds                                                        changed by
================== ============================================================ ==========================================
``_waiting``       jobs that were claimed and not begun, the oldest first       filled by the main loop, emptied by both
``_working``       jobs that were begun, numbered in that order                 added by both, removed by the slot
``_slots``         a task for each job in ``_working``                          started by the main loop, end by themselves
``_done``          results that no settlement has taken yet                     filled by slots, emptied by the main loop
``_claims``        claims under way                                             main loop
``_settling``      the settlement under way; ``None``: there is none            main loop
``_more_due``      whether the last claim said that more may be due             main loop
``drained``        a claim said that nothing more is due                        main loop; never unset
``out_of_time``    the time in which jobs are begun is over                     main loop; never unset
``halted``         the stage wants no more jobs begun                           the stage; never unset
``_ended``         the main loop has ended; cancelled jobs are handed back      main loop; never unset
================== ============================================================ ==========================================

**Invariants.**

1. A claimed job is in one place: ``_waiting``, ``_working``, ``_done`` (as its result), or in the settlement under way. It leaves by
   ``settle`` or by ``release``, once. If that call fails, the lease of the row expires and the next sweep recovers it.
2. ``_working`` holds at most ``slots`` jobs.
3. At most one settlement is under way. One claim is under way at a time; up to ``claims_at_once`` while more may be due.
4. A slot sets ``_something_to_do`` when it leaves work for the main loop: a full batch of results, too few jobs waiting, or no
   job left. Fewer results than a batch wait for more, at most
   :data:`SETTLE_EVERY`.

**The end.**

=========================== =========================== ==================================================
because                     ``_waiting``                ``_working``
=========================== =========================== ==================================================
nothing more is due         is worked off               is finished
``seconds`` are over        is worked off               is finished
and ``BEGIN_SECONDS`` too   is handed back at once      has ``ANSWER_SECONDS``, is then cancelled and handed back
the stage halted it         is handed back at once      is finished
the process is to stop      is handed back at once      has ``finish_seconds``, is then cancelled and handed back
a call of the stage raised  is handed back              is cancelled and handed back; the error is raised
the runner is cancelled     is handed back              is cancelled and handed back
=========================== =========================== ==================================================

In every case ``_done`` is settled before :meth:`Runner.run` returns or raises. ``BEGIN_SECONDS`` and ``ANSWER_SECONDS`` are in
:mod:`worker.task_limits`: because of them a run ends before Celery's soft limit, however slow MX or a channel is.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

import structlog

from worker.task_limits import ANSWER_SECONDS, BEGIN_SECONDS

Job = TypeVar("Job")
Done = TypeVar("Done")
T = TypeVar("T")

log = structlog.get_logger()

#: Results wait at most this long for others to be settled with them (seconds).
SETTLE_EVERY = 0.2


@dataclass(frozen=True)
class Batch(Generic[Job]):
    """What one claim took. ``more_may_be_due``: it took as many rows as it might, or jobs come later; else the runner claims no more."""

    jobs: Sequence[Job]
    more_may_be_due: bool


class Stage(Protocol[Job, Done]):
    """What the runner needs of a stage."""

    async def claim(self, n: int) -> Batch[Job]:
        """Take up to ``n`` due rows. Those that are not to be worked on are settled at once."""

    async def work(self, job: Job) -> Done:
        """Do one job. Whatever MX or a channel answers is a result, not an exception."""

    def crashed(self, job: Job) -> Done:
        """The result of a job whose ``work`` raised. That is an error of this worker, and the other jobs go on."""

    async def settle(self, results: Sequence[Done]) -> None:
        """Write results, in one transaction."""

    async def release(self, jobs: Sequence[Job]) -> None:
        """Hand back jobs that were not begun, or were cancelled."""

    async def renew(self, jobs: Sequence[Job]) -> None:
        """Extend the leases of jobs that take long."""


@dataclass(kw_only=True)
class Runner(Generic[Job, Done]):
    """One run of a stage; see the table of fields above."""

    stage: Stage[Job, Done]
    #: Jobs worked on at once.
    slots: int
    #: Rows claimed and settled at once.
    batch: int
    #: How long batches are claimed (seconds); less than 0: not at all.
    seconds: float
    #: How often the leases of waiting and working jobs are renewed (seconds).
    renew_every: float
    #: Set when the process is asked to stop.
    stopping: asyncio.Event
    #: How long jobs that were begun may take after that (seconds).
    finish_seconds: float = 20.0
    #: Claims under way at once, while each brings a full batch. One claim runs a handful of statements, each of which waits on a busy
    #: event loop: 200 rows in 0.1 s. 200 connections to MX can use more.
    claims_at_once: int = 1

    drained: bool = False
    out_of_time: bool = False
    #: For example because the breaker opened.
    halted: bool = False

    def __post_init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._working: dict[int, Job] = {}
        #: How many jobs were begun.
        self._begun = 0
        self._slots: set[asyncio.Task[None]] = set()
        self._done: list[Done] = []
        self._claims: set[asyncio.Task[Batch[Job]]] = set()
        self._more_due = False
        self._settling: asyncio.Task[None] | None = None
        self._something_to_do = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Work until nothing is due, the time is over, or the runner must end; then every claimed job is settled or handed back."""
        now = asyncio.get_running_loop().time
        claim_until, settle_at, renew_at = now() + self.seconds, now() + SETTLE_EVERY, now() + self.renew_every
        begin_until = claim_until + BEGIN_SECONDS
        leave_at = begin_until + ANSWER_SECONDS
        bell = asyncio.create_task(self._ring_when_stopping())
        try:
            while now() < leave_at:
                if self.stopping.is_set():
                    leave_at = min(leave_at, now() + self.finish_seconds)
                self.out_of_time = now() >= begin_until
                self._fill_slots()
                if self._winds_down():
                    await self._hand_back_waiting()
                elif now() < claim_until:
                    self._claim_ahead()
                if self._may_settle(waited=now() >= settle_at):
                    self._settle()
                    settle_at = now() + SETTLE_EVERY
                if self._has_finished():
                    return
                await self._wait_for_something_to_do()
                self._collect()
                if now() >= renew_at:
                    renew_at = now() + self.renew_every
                    await self.stage.renew([*self._working.values(), *self._waiting])
            # The event loop may have stood still from before ``begin_until`` to ``leave_at``, so that no pass noted it.
            self.out_of_time = now() >= begin_until
            if not self.stopping.is_set():
                log.warning("out_of_time", jobs=len(self._working), why="no answer came; the next task takes them")
        finally:
            bell.cancel()
            leaving = asyncio.create_task(self._leave())
            try:
                await asyncio.wait([leaving])
            finally:  # settle and hand back even if this is cancelled meanwhile
                await leaving

    @property
    def has_more(self) -> bool:
        """Whether the run ended although more may be due."""
        return (not self.drained or self.out_of_time) and not self.halted

    def _winds_down(self) -> bool:
        """Whether no more jobs are begun."""
        return self.stopping.is_set() or self.halted or self.out_of_time

    def _has_finished(self) -> bool:
        return self._is_idle() and not self._done and not self._claims and self._settling is None

    def _is_idle(self) -> bool:
        return not self._working and not self._waiting

    def _runs_low(self) -> bool:
        """Whether to begin another claim now, so that no slot idles while the database answers.

        It begins when at most ``batch // 2`` jobs wait. If ``claims_at_once`` is more than 1: at most ``max(slots, batch // 2)``.
        """
        ahead = max(self.slots, self.batch // 2) if self.claims_at_once > 1 else self.batch // 2
        if not self._claims:
            return len(self._waiting) <= ahead
        rows_coming = len(self._claims) * self.batch
        claim_limit = self.claims_at_once if self._more_due else 1
        return len(self._claims) < claim_limit and len(self._waiting) + rows_coming <= self.slots + ahead

    def _claim_ahead(self) -> None:
        while not self.drained and self._runs_low():
            self._claims.add(self._start(self.stage.claim(self.batch)))

    def _may_settle(self, *, waited: bool) -> bool:
        """Whether results are written now. ``waited``: they have waited long enough for others."""
        if not self._done or self._settling is not None:
            return False
        return waited or len(self._done) >= self.batch or self._is_idle()

    def _settle(self) -> None:
        results, self._done = self._done, []
        self._settling = self._start(self.stage.settle(results))

    async def _wait_for_something_to_do(self) -> None:
        self._something_to_do.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_EVERY):
                await self._something_to_do.wait()

    def _collect(self) -> None:
        """Take over the results of the settlement and of the claims that have ended; raises what they raised."""
        if self._settling is not None and self._settling.done():
            self._settling = self._settling.result()
        for claim in [claim for claim in self._claims if claim.done()]:
            self._claims.remove(claim)
            self._take(claim.result())

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(coroutine)
        task.add_done_callback(lambda _: self._something_to_do.set())
        return task

    async def _ring_when_stopping(self) -> None:
        await self.stopping.wait()
        self._something_to_do.set()

    def _take(self, claimed: Batch[Job]) -> None:
        self._waiting.extend(claimed.jobs)
        self._more_due = claimed.more_may_be_due
        self.drained = self.drained or not self._more_due

    def _fill_slots(self) -> None:
        while self._may_begin():
            slot = asyncio.create_task(self._work_on(*self._begin()))
            self._slots.add(slot)
            slot.add_done_callback(self._slots.discard)

    def _may_begin(self) -> bool:
        return bool(self._waiting) and len(self._working) < self.slots and not self._winds_down() and not self._ended

    def _begin(self) -> tuple[int, Job]:
        self._begun += 1
        self._working[self._begun] = job = self._waiting.popleft()
        return self._begun, job

    async def _work_on(self, number: int, job: Job) -> None:
        """One slot: job after job, for as long as some wait."""
        while True:
            try:
                done = await self.stage.work(job)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise  # the event loop itself ends
            except BaseException as error:  # noqa: BLE001 - one job's error must not stop the others
                if self._ended:
                    return  # _leave hands it back
                log_crash(error)
                done = self.stage.crashed(job)
            del self._working[number]
            self._done.append(done)
            goes_on = self._may_begin()
            if goes_on:
                number, job = self._begin()
            if self._has_something_to_do():
                self._something_to_do.set()
                await asyncio.sleep(0)  # a job that never waits would keep the main loop from running
            if not goes_on:
                return

    def _has_something_to_do(self) -> bool:
        """Whether the main loop has to settle, to claim, or to end."""
        return (
            len(self._done) >= self.batch
            or self._is_idle()
            or self._winds_down()
            or (not self.drained and self._runs_low())
        )

    async def _hand_back_waiting(self) -> None:
        if self._waiting:
            await self.stage.release(list(self._waiting))
            self._waiting.clear()

    async def _leave(self) -> None:
        """Settle what is done, hand back what is not. Runs however the main loop ended."""
        self._ended = True
        slots = list(self._slots)
        for slot in slots:
            slot.cancel()
        if slots:
            await asyncio.wait(slots)
        for claim in self._claims:
            with suppress(Exception):
                self._waiting.extend((await claim).jobs)
        async with AsyncExitStack() as cleanup:  # if one of these calls fails, the others still run
            if interrupted := [*self._waiting, *self._working.values()]:
                cleanup.push_async_callback(self.stage.release, interrupted)
            if self._done:
                cleanup.push_async_callback(self.stage.settle, self._done)
            if self._settling is not None:
                await asyncio.wait([self._settling])
                self._settling.result()


def summary(figures: Mapping[str, int], took: timedelta) -> str:
    """What a run did, in one short line for Flower and the log: ``ready 3980, retry 12, 20.1 s``."""
    return ", ".join([*(f"{word} {figures[word]}" for word in sorted(figures)), f"{took.total_seconds():.1f} s"])


def log_crash(error: BaseException) -> None:
    """Log an error of this worker by its type and place. Its text is left out, since it may hold a URI or an address."""
    log.error("job_crashed", error=type(error).__name__, where=_where(error))


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "nowhere"
