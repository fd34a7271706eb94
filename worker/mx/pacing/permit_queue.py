"""Who waits for a permit, and who gets the next one.

A request gets a permit when three things hold: the process has a free slot (AIMD), MX asked for no silence, and, if a rate is set, a
moment of this process has come (GCRA). Requests that wait stand in one of three lines. The lines are served in this order, and each
in order of arrival:

=============  =================  ======================================
line           its requests have  they wait for
=============  =================  ======================================
``_urgent``    a moment           a slot, before all others
``_late``      a slot             another moment, since theirs was lost
``_waiters``   neither            a slot and a moment
=============  =================  ======================================

Permits are granted when a slot falls free, when a moment comes (the timer) and when moments were reserved (the refill task).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from worker.mx.pacing.concurrency import ConcurrencyLimit
from worker.mx.pacing.source import GRANT, READ_LEDGER_EVERY, PermitSource

#: Moments are reserved for the requests that wait, and for those that will come within this many seconds at the present flow.
FOLLOWERS = 0.25

_Granted = TypeVar("_Granted", float, None)


class NoPermit(Exception):  # noqa: N818 - not an error: MX is asked later
    """No permit in time. ``after``: seconds for which nobody may ask MX; 0 if there was merely too little time."""

    def __init__(self, after: float) -> None:
        super().__init__("no permit in time")
        self.after = after


class PermitQueue:
    """The requests of one process that wait; bound to the event loop of the first one."""

    def __init__(self, concurrency: ConcurrencyLimit, source: PermitSource, *, clock: Callable[[], float]) -> None:
        self.concurrency = concurrency
        self.clock = clock
        #: When a request last began.
        self.last_began = float("-inf")
        self._source = source
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._late: deque[asyncio.Future[float]] = deque()
        self._waiters: deque[asyncio.Future[float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._refill_task: asyncio.Task[None] | None = None
        self._refill_task_wakes_at = 0.0
        self._refill_wanted = asyncio.Event()
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot and a moment."""
        return len(self._waiters)

    @property
    def blocked_for(self) -> float:
        """Seconds for which MX must not be asked, as far as this process knows."""
        return max(0.0, self._source.blocked_until - self.clock())

    def block(self, seconds: float) -> None:
        """No process asks MX for this many seconds; the refill task tells the others."""
        self._source.block(seconds)
        self._wake_refill()

    def permit_at_once(self) -> float | None:
        """Take a slot and a moment and return the moment; ``None`` if there are none, or if other requests wait for them."""
        return None if self._waiters or self._late else self._try_permit(self.clock())

    async def wait(self, within: float | None) -> float:
        """Wait for a slot and a moment; returns the moment.

        Raises :class:`NoPermit` after ``within`` seconds, or at once if MX asked for a longer silence.
        """
        if self._closed or (within is not None and self.blocked_for > within):
            raise NoPermit(self.blocked_for)
        granted = self._join(self._waiters)
        self._wake_refill()
        self._set_timer()
        try:
            async with asyncio.timeout(within):
                return await granted
        except BaseException as error:
            self._give_up(granted, self._waiters)
            if isinstance(error, TimeoutError):
                raise NoPermit(self.blocked_for) from None
            raise

    async def wait_urgently(self, within: float) -> float:
        """Wait for a moment that others may have reserved, then for a slot; returns the moment.

        Raises :class:`NoPermit` after ``within`` seconds, and at once during any silence.
        """
        if self._closed or self.blocked_for > 0:
            raise NoPermit(self.blocked_for)
        try:
            async with asyncio.timeout(within):
                moment = await self._source.urgent()
                self._wake_refill()  # the ledger is read while there is work
                if moment is None or self.blocked_for > 0:
                    raise NoPermit(self.blocked_for)
                if (ahead := moment - self.clock()) > 0:
                    await asyncio.sleep(ahead)
                await self._take_slot()
        except TimeoutError:
            raise NoPermit(self.blocked_for) from None
        return moment

    async def wait_again(self, within: float) -> float:
        """Wait for another moment and keep the slot; returns the moment.

        Raises :class:`NoPermit` after ``within`` seconds, or at once if MX asked for a longer silence.
        """
        if self._closed or within <= 0 or self.blocked_for > within:
            raise NoPermit(self.blocked_for)
        granted = self._join(self._late)
        self._wake_refill()
        self._set_timer()
        try:
            async with asyncio.timeout(within):
                return await granted
        except TimeoutError:
            raise NoPermit(self.blocked_for) from None
        finally:
            with suppress(ValueError):
                self._late.remove(granted)

    def leave(self, began: float) -> None:
        """A request that began at ``began`` has ended: its slot is free."""
        self.concurrency.leave(began)
        if self._waiters or self._urgent:
            self._grant()

    async def close(self) -> None:
        """Cancel the requests that wait; those that come later get :class:`NoPermit`."""
        # The refill task looks at it too: before Python 3.12, wait_for in redis-py may swallow a cancellation.
        self._closed = True
        if self._refill_task is not None:
            self._refill_task.cancel()
            await asyncio.wait([self._refill_task])
        if self._timer is not None:
            self._timer.cancel()
        for line in (self._late, self._waiters, self._urgent):
            while line:
                line.popleft().cancel()

    def _join(self, line: deque[asyncio.Future[_Granted]]) -> asyncio.Future[_Granted]:
        granted: asyncio.Future[_Granted] = asyncio.get_running_loop().create_future()
        line.append(granted)
        return granted

    def _give_up(self, granted: asyncio.Future[_Granted], line: deque[asyncio.Future[_Granted]]) -> None:
        """A request was cancelled while it waited for a slot: leave the line, or return the slot if it was granted meanwhile."""
        if granted.done() and not granted.cancelled():
            self.concurrency.in_flight -= 1
            self._grant()
        else:
            with suppress(ValueError):
                line.remove(granted)

    async def _take_slot(self) -> None:
        if self.concurrency.free > 0:
            self.concurrency.in_flight += 1
            return
        granted = self._join(self._urgent)
        try:
            await granted
        except BaseException:
            self._give_up(granted, self._urgent)
            raise

    def _try_permit(self, now: float) -> float | None:
        if self.concurrency.free <= 0 or (moment := self._source.take(now)) is None:
            return None
        self.concurrency.in_flight += 1
        return moment

    def _grant(self) -> None:
        """Grant permits, line by line, until slots or moments run out."""
        while self._urgent and self.concurrency.free > 0:
            if not (granted := self._urgent.popleft()).done():
                self.concurrency.in_flight += 1
                granted.set_result(None)
        now = self.clock()
        for line, take in ((self._late, self._source.take), (self._waiters, self._try_permit)):
            while line:
                if line[0].done():
                    line.popleft()
                elif (moment := take(now)) is not None:
                    line.popleft().set_result(moment)
                else:
                    self._set_timer()
                    self._wake_refill()
                    return

    def _set_timer(self) -> None:
        """Grant permits when the next moment comes, unless no slot will be free for it."""
        now = self.clock()
        moment = self._source.next_moment(now)
        if moment is None or (self.concurrency.free <= 0 and not self._late):
            return
        if self._timer is not None:
            if self._timer_at <= moment:
                return
            self._timer.cancel()
        self._timer_at = moment
        self._timer = asyncio.get_running_loop().call_later(moment - now, self._grant_by_timer)

    def _grant_by_timer(self) -> None:
        self._timer = None
        self._grant()

    def _refill_at(self, now: float) -> float:
        return self._source.refill_at(
            now,
            waiting=bool(self._waiters or self._late),
            usable=self._moments_wanted(),
            active=now - self.last_began < READ_LEDGER_EVERY,
        )

    def _moments_wanted(self) -> int:
        """How many moments are wanted: by the requests that wait and those that will follow, limited by the slots that will be free."""
        if not self._waiters:
            return len(self._late)
        wanted = max(len(self._waiters), int(self.concurrency.flow * FOLLOWERS))
        return len(self._late) + min(wanted, int(max(self.concurrency.free, 0) + self.concurrency.turnover(GRANT)))

    def _wake_refill(self) -> None:
        """Wake the refill task if a refill is due before the task wakes by itself; start the task if it is not running."""
        if self._refill_task is None or self._refill_task.done():
            self._refill_task = asyncio.get_running_loop().create_task(self._refill_loop(), name="pacing")
        elif self._refill_at(self.clock()) < self._refill_task_wakes_at:
            self._refill_wanted.set()

    async def _refill_loop(self) -> None:
        """Ask the ledger whenever a refill is due, one call at a time."""
        while not self._closed:
            self._refill_wanted.clear()
            self._refill_task_wakes_at = float("-inf")  # it is awake: nobody need wake it
            now = self.clock()
            moment = self._refill_at(now)
            if moment <= now:
                await self._source.refill(self._moments_wanted())
                self._grant()
                continue
            self._refill_task_wakes_at = moment
            if moment == float("inf") and not self._waiters and not self._late:
                self._source.rest()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if moment == float("inf") else moment - now):
                    await self._refill_wanted.wait()
