"""What all processes share: when the next request may be sent, until when MX asked for silence, and how many they are.

It is one text of numbers in Redis, read and written by a script, and all of it may be lost at any moment. Of the libraries
looked at, ``throttled-py`` (GCRA in Lua on the server's time) grants *n* at once only out of a burst that is there already and
refuses instead of reserving what comes, ``limits`` has windows alone, and ``pyrate-limiter`` keeps an entry for each request on
the client's clock. None of them says at which moments the *n* may be sent or knows of a moment that all must wait for, so this is
GCRA without a burst, whose answer is a schedule.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost

KEY = "reconnect:pacing:mx"

#: Nothing is granted further ahead than this (seconds), but for one moment to every process where the rate is slow.
HORIZON = 1.25
#: Seconds; a longer silence is cut to it.
LONGEST_BLOCK = 3600.0
#: A process that was not heard of for so long is not counted (seconds).
SEEN_FOR = 15
#: Redis keeps the text for so long after its last change (seconds).
KEPT_FOR = 86_400

_TIMEOUT = 1.0

# Microseconds throughout: a double holds them exactly. The text is "due blocked id seen id seen …".
_SCRIPT = """
local id, n, interval, block = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local careful, horizon, longest = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local words = {}
for word in string.gmatch(redis.call('GET', KEYS[1]) or '', '%d+') do words[#words + 1] = word end

local processes, seen = 1, {}
for i = 3, #words - 1, 2 do
  if words[i] ~= id and tonumber(words[i + 1]) > now - tonumber(ARGV[8]) then
    processes = processes + 1
    seen[#seen + 1] = words[i] .. ' ' .. words[i + 1]
  end
end
horizon = math.max(horizon, (processes + 1) * interval)

-- Nobody reserves so far ahead: the server's clock was set back.
local due = tonumber(words[1])
if due and due > now + 2 * horizon + 10 * interval then due = nil end
-- What others still hold is not known if the text is gone, or if all of us were on our own.
if (not due and careful > 0) or (due and due < now and careful > 1) then due = now + horizon end

local blocked = math.min(tonumber(words[2]) or 0, now + longest)
if block > 0 then blocked = math.max(blocked, now + math.min(block, longest)) end

local first = math.max(due or now, now, blocked)
local granted = 0
if n > 0 then granted = math.max(0, math.min(n, math.floor((now + horizon - first) / interval) + 1)) end
if granted > 0 then due = first + granted * interval end

if interval > 0 then seen[#seen + 1] = id .. string.format(' %.0f', now) end
if interval > 0 or block > 0 then
  local text = string.format('%.0f %.0f ', due or now, blocked) .. table.concat(seen, ' ')
  redis.call('SET', KEYS[1], text, 'EX', ARGV[9])
end
return {now, first, granted, blocked, processes}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What a look into the ledger brought; moments are on this process's monotonic clock."""

    #: When the first of them may be sent; of none, when the first could be.
    first: float
    #: How many may be sent.
    n: int
    #: Nothing is sent before this.
    blocked_until: float
    #: How many processes were here lately, this one included.
    processes: int


class Ledger(Protocol):
    """What all processes share."""

    async def reserve(
        self, n: int, *, interval: float, horizon: float = HORIZON, block: float = 0.0, careful: int = 0
    ) -> Grant:
        """Up to ``n`` moments, ``interval`` seconds apart; one round trip.

        ``horizon``: how far ahead others may have reserved, by what we know. Once it has passed, all that was granted has passed.
        ``block``: nobody is to send for so many seconds. ``careful``: 1 if others may hold moments that an emptied ledger has
        forgotten, 2 if they may be sending without it. Raises whatever went wrong.
        """

    async def close(self) -> None:
        """Let go of connections."""


class CarriedTime:
    """Another machine's clock, read off ours.

    An answer bounds the difference: it was written after we asked and before we had it. The bounds of many answers together are
    narrow even where single ones were deferred, so that moments of several grants keep their distances.
    """

    #: How fast two clocks may drift apart (seconds per second).
    DRIFT = 0.001

    def __init__(self) -> None:
        self._least, self._most, self._at = float("-inf"), float("inf"), 0.0

    def learn(self, theirs: float, *, asked: float, answered: float) -> None:
        """It was ``theirs`` there at some moment between ``asked`` and ``answered`` here."""
        drift = self.DRIFT * (answered - self._at)
        self._least, self._most, self._at = self._least - drift, self._most + drift, answered
        if theirs - answered > self._most or theirs - asked < self._least:  # one of the clocks was set
            self._least, self._most = float("-inf"), float("inf")
        self._least = max(self._least, theirs - answered)
        self._most = min(self._most, theirs - asked)

    def here(self, theirs: float) -> float:
        """When it is ``theirs`` there; late rather than early."""
        return theirs - self._least


class RedisLedger:
    """The ledger in Redis, opened by its first use on the loop that is running then."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        # Kombu takes ssl_cert_reqs=CERT_REQUIRED as well as =required; redis-py takes the latter alone.
        self._url = re.sub(r"(?<=ssl_cert_reqs=)CERT_\w+", lambda found: found[0][5:].lower(), url)
        self._clock = clock
        self._time = CarriedTime()
        self._id = secrets.randbits(48)
        self._redis: Redis | None = None
        self._script: Any = None

    async def reserve(
        self, n: int, *, interval: float, horizon: float = HORIZON, block: float = 0.0, careful: int = 0
    ) -> Grant:
        """See :class:`Ledger`."""
        if self._redis is None:
            self._open()
        asked = self._clock()
        figures = (
            n,
            interval * 1e6,
            block * 1e6,
            careful,
            horizon * 1e6,
            LONGEST_BLOCK * 1e6,
            SEEN_FOR * 1e6,
            KEPT_FOR,
        )
        answer = await self._script(keys=[KEY], args=[self._id, *figures])
        now, first, granted, blocked, processes = (int(figure) for figure in answer)
        self._time.learn(now / 1e6, asked=asked, answered=self._clock())
        here = self._time.here
        return Grant(first=here(first / 1e6), n=granted, blocked_until=here(blocked / 1e6), processes=processes)

    async def close(self) -> None:
        """See :class:`Ledger`."""
        redis, self._redis = self._redis, None
        if redis is not None:
            await redis.aclose()

    def _open(self) -> None:
        self._redis = Redis.from_url(
            self._url,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            socket_keepalive=True,
            health_check_interval=15,
            # Once more on a connection that a restart of the server had cut, and no more: we go on without it.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
        )
        self._script = self._redis.register_script(_SCRIPT)
