"""More requests than this process can serve: some are told to come back, so that the others are served soon.

Without this every request would wait behind all that came before it. At 200 presses a second, where a process serves 140, the queue
grows by 60 a second, and after half a minute nobody is served before they give up.

What counts is the transactions in hand: all of a process' work passes through its few connections to the database, so the queue forms
there. Requests that wait for MX, or whose clients are slow to send, cost nothing and do not count. Webhooks have a queue of their own
(:mod:`worker.web.intake`).
"""

import time
from collections.abc import Callable

import structlog

from worker.store.sql.database import Database

log = structlog.get_logger()

#: Transactions in hand from which on requests are told to come back. They take about a quarter of a second.
MOST = 60
#: Seconds between two lines of the log about it.
TELL_EVERY = 10.0


class Overload:
    """Watches the transactions of one process."""

    def __init__(self, database: Database, *, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._most = most
        self._clock = clock
        self._sent_back = 0
        self._told_at = float("-inf")

    @property
    def is_here(self) -> bool:
        """Whether the next request is told to come back; counts it if so, and tells the log how many there were."""
        if self._database.in_hand < self._most:
            return False
        self._sent_back += 1
        now = self._clock()
        if now >= self._told_at + TELL_EVERY:
            log.warning("web_overloaded", sent_back=self._sent_back, transactions=self._database.in_hand)
            self._sent_back, self._told_at = 0, now
        return True
