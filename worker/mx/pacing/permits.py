"""Which request may be sent to MX now, and which waits?

A request gets a permit when three conditions hold: the process has a free slot (AIMD), MX asked for no silence, and, if a rate is set, a
moment of this process has come (GCRA). Permits are given in order of arrival.
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

#: No process asks MX for this time after a 429 without ``Retry-After`` (seconds).
UNNAMED_PAUSE = 1.0

#: A request whose moment was lost while its connection opened waits at most this long for another (seconds).
LATE_PATIENCE = 3.0

#: The longest wait of an urgent request without ``within`` (seconds).
URGENT_PATIENCE = 10.0

#: Moments are reserved for requests that wait, and for those expected within this time at the current flow (seconds).
FOLLOWERS = 0.25

_TIMEOUTS = frozenset({"timeout", "connect_timeout"})


class NoPermit(Exception):  # noqa: N818 - not an error: MX is asked later
    """No permit in time. ``after``: seconds for which no process may ask MX; 0 if only the time was too short."""

    def __init__(self, after: float) -> None:
        super().__init__("no permit in time")
        self.after = after


class Pacing:
    """The pacing of one process; bound to the event loop of its first permit. ``ledger``: instead of Redis at ``REDIS_URL``."""

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
        #: Requests that wait for a slot and a moment; and late ones, which have a slot but lost their moment.
        self._waiters: deque[asyncio.Future[float]] = deque()
        self._late: deque[asyncio.Future[float]] = deque()
        #: Urgent requests that have a moment and wait for a slot.
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._last_permit = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._keeper_wakes_at = 0.0
        self._refill_wanted = asyncio.Event()
        self._closed = False

    def permit(self, *, within: float | None = None, urgent: bool = False) -> "Permit":
        """``async with``: waits until one request may be sent, and keeps its slot to the end of the block.

        Raises :class:`NoPermit` after ``within`` seconds, or at once if MX asked for a longer silence. ``urgent``: a user waits. The request
        goes before all others, and raises :class:`NoPermit` at once during any silence.
        """
        return Permit(self, within, urgent=urgent)

    def block(self, seconds: float) -> None:
        """No process asks MX for so many seconds (an hour at most). The others learn of it within about a second."""
        self._source.block(seconds)
        self._rouse()

    @property
    def blocked_for(self) -> float:
        """Seconds for which MX must not be asked, as far as this process knows."""
        return max(0.0, self._source.blocked_until - self._clock())

    @property
    def alone(self) -> bool:
        """Whether Redis is away, so that this process keeps to its fallback share."""
        return self._source.alone

    @property
    def limit(self) -> int:
        """How many requests this process keeps in flight at most, at present."""
        return int(self._concurrency.limit)

    def affordable(self, seconds: float) -> int:
        """How many requests this process can begin in so many seconds, besides those that wait for a permit.

        At least 1 if no request waits; 0 if MX must not be asked during all that time.
        """
        left = seconds - self.blocked_for
        if left <= 0:
            return 0
        most = self._concurrency.turnover(left)
        if self._source.share is not None:
            most = min(most, self._source.share * left)
        return max(int(most) - len(self._waiters), 0 if self._waiters else 1)

    def wait_behind_others(self, *, patient: bool) -> None:
        """Set whether this process takes only moments that no other process wants (``patient``): fetch goes before a sync."""
        self._source.patient = patient

    async def close(self) -> None:
        """Disconnect from Redis. Waiting requests are cancelled; later ones get :class:`NoPermit`."""
        self._closed = True  # for the keeper, too: before Python 3.12, wait_for in redis-py may swallow a cancellation
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._timer is not None:
            self._timer.cancel()
        for waiting in (self._late, self._waiters, self._urgent):
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
                self._concurrency.in_flight -= 1  # it got a permit and does not use it
                self._release()
            else:
                with suppress(ValueError):
                    self._waiters.remove(leave)
            if isinstance(error, TimeoutError):
                raise NoPermit(self.blocked_for) from None
            raise

    async def _wait_urgently(self, within: float) -> float:
        """Wait for a slot and a moment, before all other requests."""
        if self._closed or self.blocked_for > 0:
            raise NoPermit(self.blocked_for)
        try:
            async with asyncio.timeout(within):
                moment = await self._source.urgent()
                self._rouse()  # the ledger is read while there is work
                if moment is None or self.blocked_for > 0:
                    raise NoPermit(self.blocked_for)
                if (ahead := moment - self._clock()) > 0:
                    await asyncio.sleep(ahead)
                await self._take_slot()
        except TimeoutError:
            raise NoPermit(self.blocked_for) from None
        return moment

    async def _take_slot(self) -> None:
        if self._concurrency.free > 0:
            self._concurrency.in_flight += 1
            return
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._urgent.append(slot)
        try:
            await slot
        except BaseException:
            if slot.done() and not slot.cancelled():
                self._concurrency.in_flight -= 1  # it got a slot and does not use it
                self._release()
            else:
                with suppress(ValueError):
                    self._urgent.remove(slot)
            raise

    async def _wait_again(self, within: float) -> float:
        """Wait for another moment with the slot kept, before all requests that wait for a permit."""
        if self._closed or within <= 0 or self.blocked_for > within:
            raise NoPermit(self.blocked_for)
        leave: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._late.append(leave)
        self._rouse()
        self._set_timer()
        try:
            async with asyncio.timeout(within):
                return await leave
        except TimeoutError:
            raise NoPermit(self.blocked_for) from None
        finally:
            with suppress(ValueError):
                self._late.remove(leave)

    def _leave(self, began: float) -> None:
        self._concurrency.leave(began)
        if self._waiters or self._urgent:
            self._release()

    def _release(self) -> None:
        """Give permits to waiting requests, in order, while there are slots and moments."""
        while self._urgent and self._concurrency.free > 0:
            if not (slot := self._urgent.popleft()).done():
                self._concurrency.in_flight += 1
                slot.set_result(None)
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
        """How many moments are wanted: for waiting and expected requests, limited by the slots that will be free."""
        if not self._waiters:
            return len(self._late)
        wanted = max(len(self._waiters), int(self._concurrency.flow * FOLLOWERS))
        return len(self._late) + min(wanted, int(max(self._concurrency.free, 0) + self._concurrency.turnover(GRANT)))

    def _rouse(self) -> None:
        """Wake the refill task if a refill is due sooner than it sleeps; start it if it is not running."""
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="pacing")
        elif self._refill_at(self._clock()) < self._keeper_wakes_at:
            self._refill_wanted.set()

    async def _keep(self) -> None:
        """The refill task: ask the ledger whenever a refill is due, one call at a time."""
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
    """One request: its slot, its moment, and what its answer means for pacing."""

    __slots__ = ("_began", "_is_urgent", "_moment", "_pacing", "_until", "_within")

    def __init__(self, pacing: Pacing, within: float | None, *, urgent: bool = False) -> None:
        self._pacing = pacing
        self._is_urgent = urgent
        self._within = within
        self._until = float("inf") if within is None else pacing._clock() + within  # noqa: SLF001
        self._began = 0.0
        self._moment = 0.0

    async def __aenter__(self) -> Self:
        pacing = self._pacing
        if self._is_urgent:
            self._moment = await pacing._wait_urgently(self._within or URGENT_PATIENCE)  # noqa: SLF001
        else:
            moment = pacing._goes_at_once()  # noqa: SLF001 - one mechanism, two classes
            self._moment = await pacing._wait(self._within) if moment is None else moment  # noqa: SLF001
        self._began = pacing._last_permit = pacing._clock()  # noqa: SLF001
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pacing._leave(self._began)  # noqa: SLF001

    async def before_sending(self) -> None:
        """Await this when the connection is open, right before the first byte: waits for another moment if its own was lost.

        On a busy machine a connection takes longer to open than a moment is valid. Without this, all requests that waited for their
        connections would be sent at once. Raises :class:`NoPermit` if no other moment comes within :data:`LATE_PATIENCE`.
        """
        if self._is_urgent:  # its moment is reserved for it alone, and a user waits
            return
        while (now := self._pacing._clock()) > self._moment + LATE:  # noqa: SLF001
            patience = min(LATE_PATIENCE, self._until - now)
            self._moment = await self._pacing._wait_again(patience)  # noqa: SLF001

    def heard(self, answer: object) -> None:
        """Adapt limit and silence to an answer of :mod:`worker.mx.answers`."""
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
        """MX served the request."""
        self._pacing._concurrency.went_well()  # noqa: SLF001

    def pushed_back(self, after: float | None = None) -> None:
        """MX answered 429, or not in time. ``after``: seconds for which no process may ask."""
        self._pacing._concurrency.pushed_back(self._began)  # noqa: SLF001
        if after is not None:
            self._pacing.block(after)
