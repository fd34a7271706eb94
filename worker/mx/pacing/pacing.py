"""The pacing of one process, as the rest of the worker uses it."""

import time
from collections.abc import Callable

from worker.mx.pacing.concurrency import ConcurrencyLimit
from worker.mx.pacing.ledger import Ledger, RedisLedger
from worker.mx.pacing.permit import Permit
from worker.mx.pacing.permit_queue import PermitQueue
from worker.mx.pacing.source import PermitSource
from worker.settings import Settings


class Pacing:
    """The pacing of one process; bound to the event loop of its first permit. ``ledger``: instead of Redis at ``REDIS_URL``."""

    def __init__(
        self, settings: Settings, *, ledger: Ledger | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._concurrency = ConcurrencyLimit(settings.mx_max_connections, clock=clock)
        self._source = PermitSource(
            ledger or RedisLedger(settings.redis_url.get_secret_value(), clock=clock),
            rate=settings.mx_requests_per_second,
            clock=clock,
        )
        self._queue = PermitQueue(self._concurrency, self._source, clock=clock)

    def permit(self, *, within: float | None = None, urgent: bool = False) -> Permit:
        """``async with``: waits until one request may be sent, and keeps its slot to the end of the block.

        Raises ``NoPermit`` after ``within`` seconds, or at once if MX asked for a longer silence. ``urgent``: a user waits. It
        goes before all others, and raises ``NoPermit`` at once during any silence, or after ten seconds if ``within`` is ``None``.
        """
        return Permit(self._queue, within, urgent=urgent)

    def block(self, seconds: float) -> None:
        """No process asks MX for this many seconds (an hour at most). The others learn of it within about a second."""
        self._queue.block(seconds)

    @property
    def blocked_for(self) -> float:
        """Seconds for which MX must not be asked, as far as this process knows."""
        return self._queue.blocked_for

    @property
    def alone(self) -> bool:
        """Whether Redis is away, so that this process keeps to its fallback share."""
        return self._source.alone

    @property
    def limit(self) -> int:
        """How many requests this process keeps in flight at most, at present."""
        return int(self._concurrency.limit)

    def affordable(self, seconds: float) -> int:
        """How many requests this process can begin in this many seconds, beyond those that wait for a permit.

        0 while MX must not be asked, or if enough requests wait already; otherwise at least 1.
        """
        remaining = seconds - self.blocked_for
        if remaining <= 0:
            return 0
        requests = self._concurrency.turnover(remaining)
        if self._source.share is not None:
            requests = min(requests, self._source.share * remaining)
        waiting = self._queue.waiting
        return max(int(requests) - waiting, 0 if waiting else 1)

    def wait_behind_others(self, *, patient: bool) -> None:
        """With ``patient`` this process takes only moments of the rate that no other process wants: fetch goes before a sync."""
        self._source.patient = patient

    async def close(self) -> None:
        """Disconnect from Redis. Requests that wait in a line are cancelled, and later ones get ``NoPermit``."""
        await self._queue.close()
        await self._source.close()
