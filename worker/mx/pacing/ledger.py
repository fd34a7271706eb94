"""What all processes share: the next free moment, until when MX asked for silence, and how many processes there are.

This is GCRA without a burst, whose answer is a schedule. All of it is one text of numbers in Redis, which a Lua script reads and
writes by the server's clock. It may be lost at any moment.

Example: the next free moment is 12:00:00.500 and moments are 20 ms apart. A process asks for 3: it gets 0.500, 0.520 and 0.540, and the
next free moment is 0.560. If nobody asks for a second, the next one who does begins at its own now: nothing is saved up.

An urgent request does not wait behind what others reserved. It gets the present moment and makes the next free moment one
interval later, so those who reserve next wait longer. Example: at 0.400 a click asks; it gets 0.400, and the next free moment is 0.580.
Urgent moments have a GCRA of their own, at the same rate, so that clicks alone do not exceed it either.

Why no library: ``throttled-py`` (GCRA in Lua on the server's time) grants *n* at once only out of a burst, and refuses instead of
reserving. ``limits`` has windows only. ``pyrate-limiter`` keeps an entry for each request, on the client's clock. None of them returns
the moments at which the *n* may be sent, or knows of a moment for which all must wait.
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
#: The next free moment of urgent requests.
URGENT_KEY = "reconnect:pacing:mx:urgent"

#: Nothing is granted further ahead than this (seconds). A slow rate widens it, so that every process gets one moment.
HORIZON = 1.25
#: A longer silence is cut to this (seconds).
LONGEST_BLOCK = 3600.0
#: A process that did not call for this many seconds is not counted.
SEEN_FOR = 15
#: Redis keeps the text for this many seconds after the last change.
KEPT_FOR = 86_400

_TIMEOUT = 1.0

# Microseconds throughout: a double holds them exactly. The text is "due blocked id seen id seen …".
_SCRIPT = """
local id, n, interval, block = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local careful, horizon, longest = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local urgent = ARGV[10] == '1'
local reach = tonumber(ARGV[11])
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

-- Nobody can have reserved so far ahead: the server's clock was set back, so the value is dropped.
local due = tonumber(words[1])
if due and due > now + 3 * horizon + 10 * interval then due = nil end
-- If the text is gone, or processes worked without Redis, others may hold moments that are not in it: begin after the horizon.
if (not due and careful > 0) or (due and due < now and careful > 1) then due = now + horizon end

local blocked = math.min(tonumber(words[2]) or 0, now + longest)
if block > 0 then blocked = math.max(blocked, now + math.min(block, longest)) end

local first = math.max(due or now, now, blocked)
local granted = 0
if urgent then
  local urgent_due = tonumber(redis.call('GET', KEYS[2]) or '')
  if urgent_due and urgent_due > now + horizon + 10 * interval then urgent_due = nil end
  -- At once, but no faster than the rate. The next free moment becomes one interval later.
  first = math.max(urgent_due or now, now, blocked)
  if interval == 0 or first <= now + horizon then granted = 1 end
  if granted > 0 then
    redis.call('SET', KEYS[2], string.format('%.0f', first + interval), 'EX', 60)
    due = math.max(due or now, now) + interval
  end
elseif n > 0 then
  if reach < 0 then reach = horizon end
  granted = math.max(0, math.min(n, math.floor((now + reach - first) / interval) + 1))
  if granted > 0 then due = first + granted * interval end
end

if interval > 0 then seen[#seen + 1] = id .. string.format(' %.0f', now) end
if interval > 0 or block > 0 then
  local text = string.format('%.0f %.0f ', due or now, blocked) .. table.concat(seen, ' ')
  redis.call('SET', KEYS[1], text, 'EX', ARGV[9])
end
return {now, first, granted, blocked, processes}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What one call to the ledger returned; moments are on this process's monotonic clock."""

    #: The first moment; if none was granted, the earliest that could be.
    first: float
    #: How many moments.
    n: int
    #: Nothing is sent before this.
    blocked_until: float
    #: How many processes called lately, this one included.
    processes: int


class Ledger(Protocol):
    """What all processes share."""

    async def reserve(
        self,
        n: int,
        *,
        interval: float,
        horizon: float = HORIZON,
        block: float = 0.0,
        careful: int = 0,
        urgent: bool = False,
        reach: float | None = None,
    ) -> Grant:
        """Up to ``n`` moments, ``interval`` seconds apart; one round trip.

        ``urgent``: one moment, ahead of all that are reserved by others. It makes the next free moment one interval later. Urgent moments
        are ``interval`` apart too.

        ``reach``: how far ahead moments may lie (seconds); without it, as far as the horizon. Who asks for less waits behind all others.

        ``horizon``: how far ahead others may have reserved (seconds). After that time every moment granted until now has passed.
        ``block``: seconds for which no process may send.
        ``careful``: when to start one horizon from now, so that moments held by others have passed. 0: never. 1: if the ledger is empty.
        2: also if its next free moment has passed, since others may have sent without Redis.

        Raises whatever Redis raises.
        """

    async def close(self) -> None:
        """Close connections."""


class CarriedTime:
    """Translates moments of the Redis server's clock into moments of ours.

    Each answer bounds the difference of the two clocks, because the server read its clock after we asked and before we had the answer.
    Example: asked at 10.000, answered at 10.004, it said 73.003: the difference is between 62.999 and 63.003. Bounds of many answers
    are intersected, so that one slow answer does not shift the moments of its grant.
    """

    #: How fast two clocks may drift apart (seconds per second).
    DRIFT = 0.001

    def __init__(self) -> None:
        self._lower, self._upper, self._at = float("-inf"), float("inf"), 0.0

    def learn(self, server_time: float, *, asked: float, answered: float) -> None:
        """The server's clock said ``server_time`` at some moment between ``asked`` and ``answered`` of ours."""
        drift = self.DRIFT * (answered - self._at)
        self._lower, self._upper, self._at = self._lower - drift, self._upper + drift, answered
        if server_time - answered > self._upper or server_time - asked < self._lower:  # one of the clocks was set
            self._lower, self._upper = float("-inf"), float("inf")
        self._lower = max(self._lower, server_time - answered)
        self._upper = min(self._upper, server_time - asked)

    def here(self, server_time: float) -> float:
        """The moment on our clock when the server's says ``server_time``; the latest one within the bounds, never too early."""
        return server_time - self._lower


class RedisLedger:
    """The ledger in Redis. It connects at its first use, on the event loop that runs then."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        # Kombu takes ssl_cert_reqs=CERT_REQUIRED as well as =required; redis-py takes the latter alone.
        self._url = re.sub(r"(?<=ssl_cert_reqs=)CERT_\w+", lambda match: match[0][5:].lower(), url)
        self._clock = clock
        self._time = CarriedTime()
        self._id = secrets.randbits(48)
        self._redis: Redis | None = None
        self._script: Any = None

    async def reserve(
        self,
        n: int,
        *,
        interval: float,
        horizon: float = HORIZON,
        block: float = 0.0,
        careful: int = 0,
        urgent: bool = False,
        reach: float | None = None,
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
            int(urgent),
            -1 if reach is None else reach * 1e6,
        )
        answer = await self._script(keys=[KEY, URGENT_KEY], args=[self._id, *figures])
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
            # One more try, for a connection that a restart of the server had cut. After that, pacing goes on without Redis.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
        )
        self._script = self._redis.register_script(_SCRIPT)
