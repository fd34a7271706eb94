"""A run: how fetch, deliver and verify get through their work.

Claim a batch of due rows, work on it concurrently, settle results in one transaction, and claim on as soon as connections fall
free, so that one slow answer never holds up the rest. It goes on until nothing is due or its time is over; what was claimed
by then is finished, what was not begun when a stop is asked for is handed back at once.

    claim ──▶ waiting ──▶ working (at most ``slots``) ──▶ done ──▶ settle
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

import structlog

Job = TypeVar("Job")
Done = TypeVar("Done")
T = TypeVar("T")

log = structlog.get_logger()

#: Results wait at most so long for others to be settled with (seconds).
SETTLE_EVERY = 0.2


@dataclass(frozen=True)
class Batch(Generic[Job]):
    """What one claim took: ``taken`` rows, of which ``jobs`` are to be worked on (the others were settled at once)."""

    taken: int
    jobs: Sequence[Job]


class Stage(Protocol[Job, Done]):
    """What a stage gives the run to do."""

    async def claim(self, n: int) -> Batch[Job]:
        """Take up to ``n`` due rows; fewer mean that no more are due."""

    async def work(self, job: Job) -> Done:
        """Do one job. What the other side does is a result, not an exception."""

    def crashed(self, job: Job) -> Done:
        """The result of a job whose ``work`` raised: a fault of ours, which must not take the others along."""

    async def settle(self, done: Sequence[Done]) -> None:
        """Write results, in one transaction."""

    async def release(self, jobs: Sequence[Job]) -> None:
        """Hand jobs back that were not begun."""

    async def renew(self, jobs: Sequence[Job]) -> None:
        """Lengthen the leases of jobs that take long."""


@dataclass(kw_only=True)
class Runner(Generic[Job, Done]):
    """One run of a stage."""

    stage: Stage[Job, Done]
    #: Jobs worked on at once.
    slots: int
    #: Rows claimed and settled at once.
    batch: int
    #: How long to go on claiming.
    seconds: float
    #: How often the leases of what is in hand are renewed.
    renew_every: float
    #: Set when the process is asked to stop.
    stopping: asyncio.Event
    #: How long jobs that are under way may go on after that.
    grace: float = 20.0
    #: Claims under way at once, from the first full batch on. One is a handful of questions to the database, each of which waits
    #: for its turn on a busy loop: alone it brings 200 rows in 0.1 s, which is less than the connections could take.
    claims_at_once: int = 1

    #: Nothing more was due at the last claim.
    drained: bool = False
    #: Set by the stage when it makes no sense to go on, as when the breaker opened.
    halted: bool = False

    def __post_init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._working: dict[int, Job] = {}
        #: How many were begun, by which each is known while it is worked on.
        self._begun = 0
        self._slots: set[asyncio.Task[None]] = set()
        self._done: list[Done] = []
        self._claims: set[asyncio.Task[Batch[Job]]] = set()
        self._there_is_much = False
        self._settling: asyncio.Task[None] | None = None
        self._something_to_do = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Work until nothing is due, the time is over or a stop is asked for; then everything taken is settled or back."""
        now = asyncio.get_running_loop().time
        until, settle_at, renew_at = now() + self.seconds, now() + SETTLE_EVERY, now() + self.renew_every
        leave_at = float("inf")
        bell = asyncio.create_task(self._ring_when_stopping())
        try:
            while now() < leave_at:
                if self.stopping.is_set():
                    leave_at = min(leave_at, now() + self.grace)
                self._fill_slots()
                if self._winds_down():
                    await self._hand_back_waiting()
                else:
                    while not self.drained and now() < until and self._runs_low():
                        self._claims.add(self._start(self.stage.claim(self.batch)))
                if (
                    self._done
                    and self._settling is None
                    and (now() >= settle_at or len(self._done) >= self.batch or self._is_idle())
                ):
                    batch, self._done = self._done, []
                    self._settling = self._start(self.stage.settle(batch))
                    settle_at = now() + SETTLE_EVERY
                if self._is_idle() and not self._done and not self._claims and self._settling is None:
                    return
                self._something_to_do.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(SETTLE_EVERY):
                        await self._something_to_do.wait()
                if self._settling is not None and self._settling.done():
                    self._settling = self._settling.result()
                for claim in [claim for claim in self._claims if claim.done()]:
                    self._claims.remove(claim)
                    self._take(claim.result())
                if now() >= renew_at:
                    renew_at = now() + self.renew_every
                    await self.stage.renew([*self._working.values(), *self._waiting])
        finally:
            bell.cancel()
            leaving = asyncio.create_task(self._leave())
            try:
                await asyncio.wait([leaving])
            finally:  # a cancellation that comes meanwhile leaves no job behind either
                await leaving

    @property
    def waiting(self) -> int:
        """Jobs that were claimed and not begun."""
        return len(self._waiting)

    @property
    def has_more(self) -> bool:
        """Whether it ended although more may be due."""
        return not self.drained and not self.halted

    def _winds_down(self) -> bool:
        """Nothing is begun any more: what goes on is finished, what waits is handed back."""
        return self.stopping.is_set() or self.halted

    def _is_idle(self) -> bool:
        return not self._working and not self._waiting

    def _runs_low(self) -> bool:
        """Claim ahead of need, so that no connection idles while the database answers, but never much.

        Half a batch; where several claims may be under way, a job for each slot.
        """
        ahead = max(self.slots, self.batch // 2) if self.claims_at_once > 1 else self.batch // 2
        if not self._claims:
            return len(self._waiting) <= ahead
        coming = len(self._claims) * self.batch
        most = self.claims_at_once if self._there_is_much else 1
        return len(self._claims) < most and len(self._waiting) + coming <= self.slots + ahead

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(coroutine)
        task.add_done_callback(lambda _: self._something_to_do.set())
        return task

    async def _ring_when_stopping(self) -> None:
        await self.stopping.wait()
        self._something_to_do.set()

    def _take(self, found: Batch[Job]) -> None:
        self._waiting.extend(found.jobs)
        self._there_is_much = found.taken >= self.batch
        self.drained = self.drained or not self._there_is_much

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
                raise  # the loop itself ends
            except BaseException as error:  # noqa: BLE001 - whatever it is, the others go on
                if self._ended:
                    return  # and hands it back
                log_crash(error)
                done = self.stage.crashed(job)
            del self._working[number]
            self._done.append(done)
            goes_on = self._may_begin()
            if goes_on:
                number, job = self._begin()
            if self._has_something_to_do():
                self._something_to_do.set()
                await asyncio.sleep(0)  # jobs that wait for nothing leave the run's own loop its turn
            if not goes_on:
                return

    def _has_something_to_do(self) -> bool:
        """The run's own loop: to settle, to claim, or to come to an end."""
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
        """Whatever ended the run: settle what is done, hand back what is not."""
        self._ended = True
        slots = list(self._slots)
        for slot in slots:
            slot.cancel()
        if slots:
            await asyncio.wait(slots)
        for claim in self._claims:
            with suppress(Exception):
                self._waiting.extend((await claim).jobs)
        async with AsyncExitStack() as all_of_it:  # whichever of these fails, the others are done
            if interrupted := [*self._waiting, *self._working.values()]:
                all_of_it.push_async_callback(self.stage.release, interrupted)
            if self._done:
                all_of_it.push_async_callback(self.stage.settle, self._done)
            if self._settling is not None:
                await asyncio.wait([self._settling])
                self._settling.result()


def summary(figures: Mapping[str, int], took: timedelta) -> str:
    """A run in one short line, for Flower and the log: ``ready 3980, retry 12, 20.1 s``."""
    return ", ".join([*(f"{word} {figures[word]}" for word in sorted(figures)), f"{took.total_seconds():.1f} s"])


def log_crash(error: BaseException) -> None:
    """Log a fault of ours. The error's text may hold what no log may hold; its place is enough to find the fault."""
    log.error("job_crashed", error=type(error).__name__, where=_where(error))


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "nowhere"
