"""Where a process's moments come from: from the shared ledger, or from its fallback share while Redis is away.

Moments are reserved ahead of need, as many at once as are waited for. If no rate is set there are no moments. The ledger is then read
about once a second, to learn whether MX asked for silence.

Redis goes away and comes back, in numbers (50 requests a second, two processes):

1. A call to Redis fails. For ``horizon`` (1.25 s) this process sends only what it has reserved, because others may still hold moments.
2. Then it plans its own moments, 24 a second, up to 1.1 s ahead, and tries Redis twice a second.
3. Redis answers. The process drops its own moments from the first granted one on. If Redis lost the ledger, the first grant begins one
   horizon later, when every moment that somebody planned alone has passed.
"""

from collections.abc import Callable

import structlog

from worker.mx.pacing.ledger import HORIZON, LONGEST_BLOCK, Grant, Ledger
from worker.mx.pacing.schedule import PACE, Schedule
from worker.telemetry.scrubbing import cause_of

log = structlog.get_logger()

#: A process reserves at most this many seconds of its share at once.
GRANT = 1.0
#: It reserves more when the last moment that it holds is at most this many seconds away.
LEAD = 0.1
#: A patient process takes only moments that nobody has reserved this many seconds before they come. Less than :data:`LEAD`: a process
#: that has more to ask has reserved its next moments by then.
PATIENT_REACH = 0.05
#: How often the ledger is read while there is work (seconds).
READ_LEDGER_EVERY = 1.0
#: What was read from the ledger is valid for this many seconds. After that it is read again before anything is sent. Longer than a
#: call to Redis takes to fail.
STALE = 5.0
#: How often Redis is tried while it is away (seconds); often enough that all processes are back within one horizon.
TRY_EVERY = 0.5
#: A process plans its fallback share this many seconds ahead: longer than a call to Redis takes to fail, shorter than the horizon.
OWN_REACH = 1.1
#: A process that never reached Redis assumes that there are this many processes.
UNKNOWN_PROCESSES = 8

#: A silence is written to the ledger at once; if later answers extend it, at most this often (seconds).
_REPORT_EVERY = 0.1
_SOON = 0.02
_NEVER, _AT_NO_TIME = float("-inf"), float("inf")


class PermitSource:
    """The moments of one process. ``rate``: requests a second of all processes together; ``None`` for no limit."""

    def __init__(self, ledger: Ledger, *, rate: float | None, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._rate = None if rate is None else rate * PACE
        self.schedule = Schedule()
        #: Whether this process leaves moments to all others that want them.
        self.patient = False
        #: Nothing is sent before this.
        self.blocked_until = _NEVER
        #: Whether Redis is away.
        self.alone = False
        self._processes = UNKNOWN_PROCESSES
        self._untold_block = _NEVER
        self._asked_at = self._heard_at = self._stale_at = _NEVER
        self._reserve_from = self._own_from = self._urgent_from = _NEVER

    @property
    def share(self) -> float | None:
        """Requests a second for this process, if all processes that it last saw are at work."""
        return None if self._rate is None else self._rate / self._processes

    @property
    def horizon(self) -> float:
        """Seconds after which every moment that others reserved until now has passed."""
        return HORIZON if self._rate is None else max(HORIZON, (self._processes + 1) / self._rate)

    def take(self, now: float) -> float | None:
        """Remove and return the moment of one request that may be sent now; ``None`` if none may."""
        if not self.blocked_until <= now < self._stale_at:
            return None
        return now if self._rate is None else self.schedule.take(now)

    def next_moment(self, now: float) -> float | None:
        """When to try again if no refill comes before."""
        return self.blocked_until if self.blocked_until > now else self.schedule.next

    def block(self, seconds: float) -> None:
        """No process sends for this many seconds; the next refill tells the others."""
        until = self._clock() + min(seconds, LONGEST_BLOCK)
        if until > self.blocked_until:
            self._untold_block = until
            self._hold_until(until)

    def refill_at(self, now: float, *, waiting: bool, usable: int, active: bool) -> float:
        """When the next refill is due.

        ``waiting``: somebody waits. ``usable``: moments that could be used. ``active``: a request was sent lately.
        """
        read_times = [_AT_NO_TIME]
        if waiting or active:
            read_times.append(self._asked_at + (TRY_EVERY if self.alone else READ_LEDGER_EVERY))
        if waiting and now >= self._stale_at:
            read_times.append(now)
        if self._untold_block > now:
            read_times.append(self._asked_at + _REPORT_EVERY)
        needed = self._needed_at(now, usable)
        if self.alone:
            return min(max(min(read_times), self._asked_at + TRY_EVERY), needed)
        return min(*read_times, needed)

    async def refill(self, usable: int) -> None:
        """Reserve moments, write a silence to the ledger, read what others wrote."""
        now = self._clock()
        n = self._wanted(now, usable) if now + READ_LEDGER_EVERY / 4 >= self._needed_at(now, usable) else 0
        if self.alone:
            self._plan_own_share(n, now)
            n = 0
        if not self.alone or now >= self._asked_at + TRY_EVERY:
            await self._read_ledger(n, now)

    async def urgent(self) -> float | None:
        """The moment of a request that goes ahead of all others; ``None``: too many such requests wait already.

        The moment may lie ahead, by as much as urgent requests alone exceed the rate. Check :attr:`blocked_until` after this.
        """
        now = self._clock()
        if self._rate is None and now < self._stale_at:
            return now
        if not self.alone:
            try:
                grant = await self._ledger.reserve(
                    1,
                    interval=0.0 if self._rate is None else 1 / self._rate,
                    horizon=self.horizon,
                    careful=int(now - self._heard_at < 2 * self.horizon),
                    urgent=True,
                )
            except Exception as error:  # noqa: BLE001 - as in _read_ledger
                self._note_away(cause_of(error))
            else:
                self._processes = grant.processes
                self._hold_until(grant.blocked_until)
                if self._rate is None:
                    self._stale_at = self._clock() + STALE
                return grant.first if grant.n else None
        return self._own_urgent(self._clock())

    def _own_urgent(self, now: float) -> float | None:
        """An urgent moment of this process's own share.

        The last moment that it planned is dropped for it. If none is planned, the next one that it plans comes one interval later.
        """
        if self.share is None:
            return now
        first = max(now, self._urgent_from)
        if first > now + self.horizon:
            return None
        self._urgent_from = first + 1 / self.share
        if not self.schedule.drop_last():
            self._own_from = max(self._own_from, now) + 1 / self.share
        return first

    def rest(self) -> None:
        """Nothing is sent for a while: the ledger is read again before the next request."""
        self._stale_at = _NEVER

    async def close(self) -> None:
        """Disconnect from Redis."""
        await self._ledger.close()

    def _needed_at(self, now: float, usable: int) -> float:
        """When more moments are reserved: not while half of those that can be used are here."""
        if self._rate is None or usable == 0 or self.schedule.count(now) * 2 > usable:
            return _AT_NO_TIME
        return max(self._reserve_from, self.schedule.last - LEAD)

    def _wanted(self, now: float, usable: int) -> int:
        if self.share is None:
            return 0
        return min(usable - self.schedule.count(now), max(1, int(self.share * GRANT)))

    async def _read_ledger(self, n: int, now: float) -> None:
        self._asked_at = now
        untold = self._untold_block
        try:
            grant = await self._ledger.reserve(
                n,
                interval=0.0 if self._rate is None else 1 / self._rate,
                block=max(untold - now, 0.0),
                horizon=self.horizon,
                careful=2 if self.alone else int(now - self._heard_at < 2 * self.horizon),
                reach=PATIENT_REACH if self.patient else None,
            )
        except Exception as error:  # noqa: BLE001 - whatever Redis does, the work goes on; its own text may hold a password
            self._note_away(cause_of(error))
        else:
            if self._untold_block == untold:
                self._untold_block = _NEVER
            self._learn(grant, n)

    def _learn(self, grant: Grant, n: int) -> None:
        now = self._clock()
        self._heard_at, self._stale_at = now, now + STALE
        self._processes = grant.processes
        if self.alone:
            self.alone = False
            log.info("pacing_shared", processes=grant.processes)
            self.schedule.forget_from(grant.first)
        if self.blocked_until > max(grant.blocked_until + _REPORT_EVERY, now):
            self._untold_block = self.blocked_until  # Redis was emptied, or somebody was told less
        self._hold_until(grant.blocked_until)
        if self._rate is not None:
            self.schedule.add(grant.first, 1 / self._rate, grant.n)
            ahead = PATIENT_REACH if self.patient else self.horizon / 2
            self._reserve_from = _NEVER if grant.n or not n else max(grant.first - ahead, now + _SOON)

    def _note_away(self, why: str) -> None:
        now = self._clock()
        self._stale_at = now + STALE
        self._reserve_from = _NEVER
        if not self.alone:
            self.alone = True
            self._own_from = now + self.horizon  # until then, others may use up what they hold
            share = None if self.share is None else round(self.share, 2)
            log.warning("pacing_alone", why=why, requests_per_second=share)

    def _plan_own_share(self, n: int, now: float) -> None:
        if self.share is None or n <= 0:
            return
        first = max(now, self._own_from, self.blocked_until)
        n = min(n, max(1, int(self.share * OWN_REACH)))
        self.schedule.add(first, 1 / self.share, n)
        self._own_from = first + n / self.share

    def _hold_until(self, moment: float) -> None:
        if moment > self.blocked_until:
            self.blocked_until = moment
            self.schedule.forget_before(moment)
