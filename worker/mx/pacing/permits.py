"""Who may ask MX now, and who waits?

A request goes when the process has a place for it, nobody is to be silent, and, where a rate is set, a moment to send has come.
Whoever comes first goes first.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from worker.mx.answers import RefusedClient, RetryLater
from worker.mx.pacing.concurrency import ConcurrencyLimit
from worker.mx.pacing.ledger import Ledger, RedisLedger
from worker.mx.pacing.schedule import LATE
from worker.mx.pacing.source import GRANT, LOOK_EVERY, PermitSource
from worker.settings import Settings

#: Everybody's pause after a 429 that names none (seconds).
UNNAMED_PAUSE = 1.0

#: A request whose moment passed while its connection was opened waits at most so long for another (seconds).
LATE_PATIENCE = 3.0

#: While some wait, others are expected to go on coming for so long (seconds).
FOLLOWERS = 0.25

_TIMEOUTS = frozenset({"timeout", "connect_timeout"})


class NoPermit(Exception):  # noqa: N818 - not an error: MX is asked later
    """The turn does not come in time. ``after``: seconds for which nobody may ask MX; 0 if the time was merely too short."""

    def __init__(self, after: float) -> None:
        super().__init__("no turn in time")
        self.after = after


class Pacing:
    """The pacing of one process; belongs to the event loop of its first turn. ``ledger``: instead of Redis at ``REDIS_URL``."""

    def __init__(
        self, settings: Settings, *, ledger: Ledger | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._concurrency = ConcurrencyLimit(settings.mx_max_connections, clock=clock)
        self._source = PermitSource(
            ledger or RedisLedger(settings.redis_url.get_secret_value(), clock=clock),
            rate=settings.mx_requests_per_second,
            clock=clock,
        )
        #: Those that wait for a place and a moment, and those that have a place and lost their moment.
        self._waiters: deque[asyncio.Future[float]] = deque()
        self._late: deque[asyncio.Future[float]] = deque()
        self._last_permit = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._keeper_wakes_at = 0.0
        self._refill_wanted = asyncio.Event()
        self._closed = False

    def permit(self, *, within: float | None = None) -> "Permit":
        """``async with``: waits for leave to send one request, and keeps its place to the end of the block.

        Raises :class:`NoPermit` after ``within`` seconds, or at once where it is certain that the turn does not come by then.
        """
        return Permit(self, within)

    def block(self, seconds: float) -> None:
        """Nobody, in any process, asks MX for so many seconds (an hour at most). The others know within about a second."""
        self._source.block(seconds)
        self._rouse()

    @property
    def blocked_for(self) -> float:
        """Seconds for which MX is not asked, as far as this process knows."""
        return max(0.0, self._source.blocked_until - self._clock())

    @property
    def alone(self) -> bool:
        """Whether Redis is away, so that this process keeps to its own share."""
        return self._source.alone

    @property
    def limit(self) -> int:
        """How many requests this process keeps in flight at most, at present."""
        return int(self._concurrency.limit)

    def affordable(self, seconds: float) -> int:
        """How many more requests this process can have finished in so many seconds, beyond those that wait for their turn.

        At least 1 if none wait; 0 if MX is not asked in all that time.
        """
        left = seconds - self.blocked_for
        if left <= 0:
            return 0
        most = self._concurrency.turnover(left)
        if self._source.share is not None:
            most = min(most, self._source.share * left)
        return max(int(most) - len(self._waiters), 0 if self._waiters else 1)

    async def close(self) -> None:
        """Let go of Redis; who still waits is cancelled, and who comes later gets no turn."""
        self._closed = True  # for the keeper, too: before Python 3.12, wait_for in redis-py may swallow a cancellation
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._timer is not None:
            self._timer.cancel()
        for waiting in (self._late, self._waiters):
            while waiting:
                waiting.popleft().cancel()
        await self._source.close()

    def _goes_at_once(self) -> float | None:
        return None if self._waiters or self._late else self._goes(self._clock())

    def _goes(self, now: float) -> float | None:
        if self._concurrency.free <= 0 or (moment := self._source.take(now)) is None:
            return None
        self._concurrency.in_flight += 1
        return moment

    async def _wait(self, within: float | None) -> float:
        if self._closed or (within is not None and self.blocked_for > within):
            raise NoPermit(self.blocked_for)
        leave: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiters.append(leave)
        self._rouse()
        self._set_timer()
        try:
            async with asyncio.timeout(within):
                return await leave
        except BaseException as error:
            if leave.done() and not leave.cancelled():
                self._concurrency.in_flight -= 1  # it was let go, and does not go
                self._release()
            else:
                with suppress(ValueError):
                    self._waiters.remove(leave)
            if isinstance(error, TimeoutError):
                raise NoPermit(self.blocked_for) from None
            raise

    async def _wait_again(self) -> float:
        """Another moment, before all who wait, for a request that keeps its place."""
        if self._closed or self.blocked_for > LATE_PATIENCE:
            raise NoPermit(self.blocked_for)
        leave: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._late.append(leave)
        self._rouse()
        self._set_timer()
        try:
            async with asyncio.timeout(LATE_PATIENCE):
                return await leave
        except TimeoutError:
            raise NoPermit(self.blocked_for) from None
        finally:
            with suppress(ValueError):
                self._late.remove(leave)

    def _leave(self, began: float) -> None:
        self._concurrency.leave(began)
        if self._waiters:
            self._release()

    def _release(self) -> None:
        """Let go whoever may."""
        now = self._clock()
        for waiting, take in ((self._late, self._source.take), (self._waiters, self._goes)):
            while waiting:
                if waiting[0].done():
                    waiting.popleft()
                elif (moment := take(now)) is not None:
                    waiting.popleft().set_result(moment)
                else:
                    self._set_timer()
                    self._rouse()
                    return

    def _set_timer(self) -> None:
        now = self._clock()
        moment = self._source.next_moment(now)
        if moment is None or (self._concurrency.free <= 0 and not self._late):
            return
        if self._timer is not None:
            if self._timer_at <= moment:
                return
            self._timer.cancel()
        self._timer_at = moment
        self._timer = asyncio.get_running_loop().call_later(moment - now, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._release()

    def _refill_at(self, now: float) -> float:
        return self._source.refill_at(
            now,
            waiting=bool(self._waiters or self._late),
            usable=self._usable(),
            active=now - self._last_permit < LOOK_EVERY,
        )

    def _usable(self) -> int:
        """How many moments could be used soon: by those who wait and those who follow them, as far as there will be places."""
        if not self._waiters:
            return len(self._late)
        wanted = max(len(self._waiters), int(self._concurrency.flow * FOLLOWERS))
        return len(self._late) + min(wanted, int(max(self._concurrency.free, 0) + self._concurrency.turnover(GRANT)))

    def _rouse(self) -> None:
        """Wake the keeper if there is something to do sooner than it thinks."""
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="pacing")
        elif self._refill_at(self._clock()) < self._keeper_wakes_at:
            self._refill_wanted.set()

    async def _keep(self) -> None:
        """Run errands one at a time, for as long as there is work."""
        while not self._closed:
            self._refill_wanted.clear()
            self._keeper_wakes_at = float("-inf")
            now = self._clock()
            moment = self._refill_at(now)
            if moment <= now:
                await self._source.refill(self._usable())
                self._release()
                continue
            self._keeper_wakes_at = moment
            if moment == float("inf") and not self._waiters and not self._late:
                self._source.rest()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if moment == float("inf") else moment - now):
                    await self._refill_wanted.wait()


class Permit:
    """One request: its leave to go, its place while it is under way, and what it learns of MX."""

    __slots__ = ("_began", "_moment", "_pacing", "_within")

    def __init__(self, pacing: Pacing, within: float | None) -> None:
        self._pacing = pacing
        self._within = within
        self._began = 0.0
        self._moment = 0.0

    async def __aenter__(self) -> Self:
        pacing = self._pacing
        moment = pacing._goes_at_once()  # noqa: SLF001 - one mechanism, two classes
        self._moment = await pacing._wait(self._within) if moment is None else moment  # noqa: SLF001
        self._began = pacing._last_permit = pacing._clock()  # noqa: SLF001
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pacing._leave(self._began)  # noqa: SLF001

    async def before_sending(self) -> None:
        """To be awaited when the connection is open, right before the first byte: waits for another moment if its own has passed.

        Opening connections on a busy machine takes longer than a moment is good for, and all that waited for them would be sent at
        once. Raises :class:`NoPermit` if there is no other moment within :data:`LATE_PATIENCE`.
        """
        while self._pacing._clock() > self._moment + LATE:  # noqa: SLF001
            self._moment = await self._pacing._wait_again()  # noqa: SLF001

    def heard(self, answer: object) -> None:
        """Draw the conclusions from one of :mod:`worker.mx.answers`."""
        if not isinstance(answer, RetryLater):
            if not isinstance(answer, RefusedClient):
                self.went_well()
        elif answer.code == "http_429":
            self.pushed_back(UNNAMED_PAUSE if answer.after is None else answer.after)
        elif answer.code == "http_503" and answer.after is not None:
            self._pacing.block(answer.after)
        elif answer.code in _TIMEOUTS:
            self.pushed_back()

    def went_well(self) -> None:
        """MX served it."""
        self._pacing._concurrency.went_well()  # noqa: SLF001

    def pushed_back(self, after: float | None = None) -> None:
        """MX found it too much, or did not answer in time. ``after``: seconds for which nobody is to ask."""
        self._pacing._concurrency.pushed_back(self._began)  # noqa: SLF001
        if after is not None:
            self._pacing.block(after)
