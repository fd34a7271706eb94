"""How many requests an address, a link, an API key or a user may send, to all web processes together.

The library ``limits`` counts them in Redis, in a sliding window of a minute. While Redis is away each process counts for itself: with
four processes the limits are four times as high, and no request is refused because of Redis. A key in Redis contains a keyed hash, never
an address or a token.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Any

import structlog
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from worker.settings import Settings
from worker.telemetry.scrubbing import cause_of

log = structlog.get_logger()

#: Seconds that Redis may take, and seconds for which it is not asked after it failed.
PATIENCE, AWAY_FOR = 0.25, 5.0


class Limit(Enum):
    """Requests in a minute."""

    #: Pages per address. Mail scanners, and offices behind one address, open many.
    VIEWS = RateLimitItemPerMinute(600)
    #: Presses per address.
    PRESSES = RateLimitItemPerMinute(60)
    #: One-click unsubscribes per address. They come from the mailbox provider, so from few addresses for many customers.
    ONE_CLICKS = RateLimitItemPerMinute(6000)
    #: Requests without the right credentials per address.
    UNAUTHORISED = RateLimitItemPerMinute(20)
    #: Requests to the API per key, and per user over all keys.
    API = RateLimitItemPerMinute(12_000)
    API_USER = RateLimitItemPerMinute(120)
    #: Presses per link, and opt-outs per link. The number of windows that presses mint has its own limit, in the click.
    LINK = RateLimitItemPerMinute(30)


class Limits:
    """Counts requests. Connects at its first use, and belongs to the event loop of that use."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        url = settings.redis_url.get_secret_value()
        # Kombu takes ssl_cert_reqs=CERT_REQUIRED as well as =required; redis-py takes the latter alone.
        self._url = re.sub(r"(?<=ssl_cert_reqs=)CERT_\w+", lambda match: match[0][5:].lower(), url)
        self._key = derived_key(settings, "limits")
        self._clock = clock
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._storage: Any = None
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._away_until = float("-inf")
        self._is_away = False

    async def wait(self, limit: Limit, who: str) -> float | None:
        """Count one request of ``who``; the seconds to wait if that is more than the limit, else ``None``."""
        item, name = limit.value, hmac.new(self._key, f"{limit.name}:{who}".encode(), hashlib.sha256).hexdigest()[:32]
        if self._clock() >= self._away_until:
            try:
                seconds = await self._ask(self._connected(), item, name)
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                self._away_until = self._clock() + AWAY_FOR
                if not self._is_away:
                    log.warning("limits_not_shared", cause=cause_of(error))
                self._is_away = True
            else:
                if self._is_away:
                    log.info("limits_shared_again")
                self._is_away = False
                return seconds
        return await self._ask(self._own, item, name)

    async def close(self) -> None:
        """Close the connections."""
        storage, self._storage, self._shared = self._storage, None, None
        if storage is not None:
            with suppress(RedisError, OSError):
                await storage.bridge.storage.aclose()

    def _connected(self) -> SlidingWindowCounterRateLimiter:
        if self._shared is None:
            self._storage = RedisStorage(
                f"async+{self._url}",
                implementation="redispy",
                key_prefix="reconnect:limits",
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
                socket_keepalive=True,
            )
            self._shared = SlidingWindowCounterRateLimiter(self._storage)
        return self._shared

    async def _ask(self, limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, name: str) -> float | None:
        if await limiter.hit(item, name):
            return None
        stats = await limiter.get_window_stats(item, name)
        return min(max(stats.reset_time - time.time(), 1.0), float(item.get_expiry()))


def derived_key(settings: Settings, purpose: str, *, number: int = 0) -> bytes:
    """A key for one purpose, derived from the key ``number`` of ``URI_KEYS``. It reveals neither that key nor the keys of other purposes."""
    secret = settings.uri_keys[number].get_secret_value().encode()
    return hmac.new(secret, f"reconnect web {purpose}".encode(), hashlib.sha256).digest()
