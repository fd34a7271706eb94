"""A stage in memory, so that a runner can be tested without a database."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from worker.stages.runner import Batch, Runner

Done = tuple[int, str]


class Desk:
    """A stage in memory: its jobs are numbers, and it records what happens to each."""

    def __init__(self, due: int, *, ticks: Callable[[int], int] = lambda _: 1) -> None:
        self.due = due
        self.ticks = ticks
        #: Jobs that do not end before their event is set.
        self.held: dict[int, asyncio.Event] = {}
        #: Jobs that raise, with the exception.
        self.raises: dict[int, BaseException] = {}
        #: Raised by the n-th call (from 0) of ``claim``, ``settle``, ``release`` or ``renew``.
        self.fails: dict[tuple[str, int], Exception] = {}
        #: Calls that wait until their event is set.
        self.slow: dict[str, asyncio.Event] = {}
        self.calls: Counter[str] = Counter()
        self.claimed: list[int] = []
        self.begun: list[int] = []
        self.working: set[int] = set()
        self.peak = 0
        self.settled: list[list[Done]] = []
        self.released: list[list[int]] = []
        self.renewed: list[list[int]] = []
        self._settling = 0

    async def _call(self, name: str) -> None:
        number = self.calls[name]
        self.calls[name] += 1
        await asyncio.sleep(0)
        if name in self.slow:
            await self.slow[name].wait()
        if (name, number) in self.fails:
            raise self.fails[name, number]

    async def claim(self, n: int) -> Batch[int]:
        await self._call("claim")
        jobs = range(len(self.claimed), min(len(self.claimed) + n, self.due))
        self.claimed += jobs
        return Batch(jobs, more_may_be_due=len(jobs) >= n)

    async def work(self, job: int) -> Done:
        self.begun.append(job)
        self.working.add(job)
        self.peak = max(self.peak, len(self.working))
        try:
            for _ in range(self.ticks(job)):
                await asyncio.sleep(0)
            if job in self.held:
                await self.held[job].wait()
            if job in self.raises:
                raise self.raises[job]
        finally:
            self.working.remove(job)
        return job, "done"

    def crashed(self, job: int) -> Done:
        return job, "crashed"

    async def settle(self, done: Sequence[Done]) -> None:
        self.settled.append(list(done))
        self._settling += 1
        assert self._settling == 1
        try:
            await self._call("settle")
        finally:
            self._settling -= 1

    async def release(self, jobs: Sequence[int]) -> None:
        self.released.append(list(jobs))
        await self._call("release")

    async def renew(self, jobs: Sequence[int]) -> None:
        self.renewed.append(list(jobs))
        await self._call("renew")

    def hold(self, *jobs: int) -> None:
        self.held |= {job: asyncio.Event() for job in jobs}

    def let_go(self, *jobs: int) -> None:
        for job in jobs or self.held:
            self.held[job].set()

    @property
    def results(self) -> dict[int, str]:
        return dict(done for batch in self.settled for done in batch)

    @property
    def handed_back(self) -> set[int]:
        return {job for batch in self.released for job in batch}

    def everything_ended_once(self) -> bool:
        ends = [job for batch in self.settled for job, _ in batch] + [job for batch in self.released for job in batch]
        return sorted(ends) == sorted(self.claimed)


def make_runner(desk: Desk, **changes: Any) -> Runner[int, Done]:
    options: dict[str, Any] = {"slots": 4, "batch": 10, "seconds": 30.0, "renew_every": 60.0, "finish_seconds": 20.0}
    return Runner(stage=desk, stopping=asyncio.Event(), **(options | changes))


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition may be waited for, not only an event
            await asyncio.sleep(0.001)
