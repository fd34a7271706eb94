"""Wakes a stage some seconds from now, but at most once a second.

A click plans six checks of its member, and ten thousand customers may click within a minute. All wakes of a stage within the same second
become one. They are kept in memory: if the process ends, or the broker is away, the next sweep wakes the stage.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from math import ceil


class DelayedWakes:
    """The planned wakes of one process; bound to the event loop of its first one."""

    def __init__(self, wake: Callable[[str, int], Awaitable[int]]) -> None:
        self._wake = wake
        #: By stage and second of the loop's clock.
        self._planned: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._running: set[asyncio.Task[int]] = set()

    @property
    def planned(self) -> int:
        """How many wakes are planned."""
        return len(self._planned)

    def plan(self, stage: str, seconds: Iterable[float]) -> None:
        """For each of ``seconds``: wake one worker of ``stage`` after that time, or up to a second later."""
        loop = asyncio.get_running_loop()
        for after in seconds:
            key = stage, ceil(loop.time() + after)
            if key not in self._planned:
                self._planned[key] = loop.call_at(key[1], self._ring, key)

    def _ring(self, key: tuple[str, int]) -> None:
        del self._planned[key]
        task = asyncio.ensure_future(self._wake(key[0], 1))
        self._running.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Future[int]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # so that asyncio does not log it; the next sweep wakes the stage

    async def close(self) -> None:
        """Cancel the planned wakes."""
        for timer in self._planned.values():
            timer.cancel()
        self._planned.clear()
        running = [*self._running]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
