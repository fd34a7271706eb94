"""The breaker: a fault of MX or of a channel as a whole stops all workers. No attempt is counted, and one row is tried from time to time.

    closed ──refused, or a failure streak──▶ open ──after 1 minute──▶ probe (one worker, one row) ──served──▶ closed
                                               ▲                         │
                                               └───────still failing─────┘

Each run of a stage counts failure streaks of MX for itself: 20 of its last 25 calls failed. Failure streaks of a channel are found in
the database, where the refusals of all processes are recorded (``store/refusals.py``). There the attempts of a streak are uncounted.

An open breaker is a row of ``pauses``, beside the pauses that operators set by hand. So every worker sees it, and `status` shows it.
"""

from collections import deque
from datetime import datetime, timedelta
from enum import Enum, auto

import structlog

from worker.policy.streaks import MANY, OUT_OF, UNREACHABLE
from worker.store.pauses import PauseStore
from worker.store.refusals import NOT_REACHED

log = structlog.get_logger()

#: While the breaker is open, one row is let through this often.
PROBE_EVERY = timedelta(minutes=1)
#: Used instead if the server cannot be reached: a try costs the server nothing, and a restart takes seconds.
PROBE_SOON = timedelta(seconds=10)
#: How soon a channel is tried again, by the kind of refusal that stopped it.
PROBE_AFTER = {UNREACHABLE: PROBE_SOON, "": PROBE_EVERY}


class Gate(Enum):
    """What a run may do."""

    #: Work as usual.
    CLOSED = auto()
    #: Try one row; this worker alone may.
    PROBE = auto()
    #: Do nothing.
    OPEN = auto()


class Breaker:
    """One scope's breaker, as one run sees it."""

    def __init__(self, pauses: PauseStore, scope: str) -> None:
        self._pauses = pauses
        self._scope = scope
        self._refused: str | None = None
        self._was_well = False
        self._last_calls: deque[bool] = deque(maxlen=OUT_OF)
        #: Why the breaker is open, and since when.
        self.reason = ""
        self.since: datetime | None = None

    async def admit(self, now: datetime) -> Gate:
        """Whether a run may begin."""
        pause = await self._pauses.get(self._scope)
        if pause is None:
            return Gate.CLOSED
        self.reason, self.since = pause.reason, pause.since
        every = PROBE_SOON if NOT_REACHED in pause.reason else PROBE_EVERY
        if await self._pauses.take_probe(self._scope, now=now, again_after=every):
            return Gate.PROBE
        return Gate.OPEN

    def refused(self, code: str) -> None:
        """Record that MX refused us as a whole, or the server did."""
        self._refused = code

    def failed(self, code: str) -> bool:
        """Record a failure that MX or the server may have caused. Returns whether there is a failure streak, which opens the breaker."""
        self._last_calls.append(False)
        if self._last_calls.count(False) >= MANY:
            self._refused = self._refused or f"a failure streak, the last {code}"
        return self._refused is not None

    def went_well(self) -> None:
        """Record a call that was served."""
        self._last_calls.append(True)
        self._was_well = True

    @property
    def tripped(self) -> bool:
        return self._refused is not None

    async def settle(self, now: datetime, *, probe: bool) -> None:
        """Commit what was learnt since the last call. Call it before results are written."""
        code, self._refused = self._refused, None
        well, self._was_well = self._was_well, False
        if code is not None:
            if await self._pauses.set(self._scope, code, now=now, probe_after=PROBE_EVERY):
                log_stopped(self._scope, code)
        elif probe and well and await self._pauses.lift(self._scope):
            log.info("resumed", scope=self._scope)


def log_stopped(scope: str, why: str, **more: object) -> None:
    """Log that everything of this scope is paused."""
    log.error("stopped", scope=scope, why=why, **more, what_to_do="see `reconnect doctor`; no attempts were counted")
