"""Stores hints in micro-batches: one commit for all requests that came during the commit before it, up to :data:`MOST_AT_ONCE` hints.

A request is answered once its own hints are committed. The first hint of a batch waits :data:`LINGER` for others.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from worker.errors import WorkerError
from worker.store.hints.arriving import KINDS, OTHER, UNREADABLE, Hint
from worker.telemetry.scrubbing import cause_of

log = structlog.get_logger()

#: Seconds that the first hint of a batch waits for others.
LINGER = 0.002
#: Hints in one commit.
MOST_AT_ONCE = 500
#: Seconds between two wakes of the stage. A run also reads hints that come while it runs.
WAKE_EVERY = 0.5
#: Seconds between two log lines with the number of hints.
LOG_EVERY = 10.0

#: Seconds that storing a batch may take. MX sends a webhook again if it was not answered with 204.
STORE_WITHIN = 15.0
#: Seconds that storing the waiting hints may take when the process ends.
CLOSE_WITHIN = 5.0
_SHOWN = frozenset({*KINDS, UNREADABLE})

#: Commits hints; returns how many members are to be read because of them.
Store = Callable[[Sequence[Hint]], Awaitable[int]]


class HintIntake:
    """Takes the hints of one process; bound to the event loop of the first hint."""

    def __init__(self, store: Store, wake: Callable[[], Awaitable[object]]) -> None:
        """``wake``: wakes the stage that reads the members."""
        self._store = store
        self._wake = wake
        self._waiting: list[tuple[Sequence[Hint], asyncio.Future[None]]] = []
        self._hints_came = asyncio.Event()
        self._wake_wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._counts: Counter[str] = Counter()
        self._logged_at = float("-inf")

    async def take(self, hints: Sequence[Hint]) -> None:
        """Store the hints of one request; returns once they are committed. Raises what storing them raised."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._keep_storing()), asyncio.create_task(self._keep_waking())]
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((hints, stored))
        self._hints_came.set()
        await stored

    async def close(self) -> None:
        """Store the waiting hints, and end."""
        if not self._tasks:
            return
        storing, waking = self._tasks
        if waiting := [stored for _, stored in self._waiting]:
            await asyncio.wait(waiting, timeout=CLOSE_WITHIN)
        storing.cancel()
        waking.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._log_counts()

    async def _keep_storing(self) -> None:
        while True:
            await self._hints_came.wait()
            await asyncio.sleep(LINGER)
            batch = self._next_batch()
            if not self._waiting:
                self._hints_came.clear()
            await self._store_batch(batch)

    def _next_batch(self) -> list[tuple[Sequence[Hint], "asyncio.Future[None]"]]:
        size = 0
        for place, (hints, _) in enumerate(self._waiting):
            size += len(hints)
            if size > MOST_AT_ONCE and place:
                batch, self._waiting = self._waiting[:place], self._waiting[place:]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    async def _store_batch(self, batch: Sequence[tuple[Sequence[Hint], "asyncio.Future[None]"]]) -> None:
        hints = [hint for request_hints, _ in batch for hint in request_hints]
        try:
            async with asyncio.timeout(STORE_WITHIN):
                to_read = await self._store(hints)
        except asyncio.CancelledError:
            for _, stored in batch:
                stored.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - each request answers with it
            # The database is away: the waiting requests fail too, instead of piling up.
            if isinstance(error, WorkerError | TimeoutError):
                batch, self._waiting = [*batch, *self._waiting], []
            _end(batch, error)
            return
        _end(batch)
        if to_read:
            self._wake_wanted.set()
        self._counts.update(hint.kind if hint.kind in _SHOWN else OTHER for hint in hints)
        if asyncio.get_running_loop().time() >= self._logged_at + LOG_EVERY:
            self._log_counts()

    def _log_counts(self) -> None:
        """Log how many hints came, by kind. A line for each request would be thousands a second."""
        if self._counts:
            log.info("webhooks", **{kind.lower(): count for kind, count in sorted(self._counts.items())})
            self._counts.clear()
            self._logged_at = asyncio.get_running_loop().time()

    async def _keep_waking(self) -> None:
        while True:
            await self._wake_wanted.wait()
            self._wake_wanted.clear()
            try:
                await self._wake()
            except Exception as error:  # noqa: BLE001 - the next sweep wakes the stage
                log.warning("nobody_woken", stage="sync", why=cause_of(error))
            await asyncio.sleep(WAKE_EVERY)


def _end(batch: Iterable[tuple[Sequence[Hint], "asyncio.Future[None]"]], error: Exception | None = None) -> None:
    """Tell the requests that their hints are committed, or that storing them failed."""
    for _, stored in batch:
        if stored.done():  # its request was cancelled
            continue
        if error is None:
            stored.set_result(None)
        else:
            stored.set_exception(error)
