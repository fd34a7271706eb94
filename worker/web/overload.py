"""If more requests come than this process can serve, some are answered "try again later", so that the others are served soon.

Without this every request would wait behind all earlier ones. Example: 200 presses a second come, and a process serves 125. The queue
grows by 75 a second, and after half a minute every customer gives up before they are served.

Transactions are counted, those that run and those that wait for a connection: all work of a process needs one of its few connections to
the database, so the queue forms there. Requests that wait for MX, or whose clients send slowly, do not count. A handler checks right
before its first transaction, so that a burst cannot pass all at once.

Never turned away: opt-outs by a link, since a mailbox provider may not try twice (they wait for one another, see ``optout.py``);
webhooks, which have a queue of their own (``intake.py``); ``/done`` and probes, whose answers wait for none of these transactions.
"""

import time
from collections.abc import Callable

import structlog

from worker.store.sql.database import Database

log = structlog.get_logger()

#: From this many transactions on, customers are answered "try again later". So many take about a quarter of a second.
MOST = 60
#: The same for the API. It is lower, because a company's server can try again, and must not displace customers.
MOST_FOR_PROGRAMS = 30
#: Seconds between two log lines about refused requests.
LOG_EVERY = 10.0


class TurnedAway(Exception):  # noqa: N818 - not an error: the answer is "come back"
    """This process has too many transactions. The guard answers."""


class Overload:
    """Watches the transactions of one process."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._turned_away = 0
        self._logged_at = float("-inf")

    def check(self, *, limit: int = MOST) -> None:
        """Raise :class:`TurnedAway` if ``limit`` transactions run or wait. Logs how many requests were turned away."""
        too_many = self._database.transactions_under_way >= limit
        self._turned_away += too_many
        if self._turned_away and (now := self._clock()) >= self._logged_at + LOG_EVERY:
            log.warning(
                "web_overloaded", turned_away=self._turned_away, transactions=self._database.transactions_under_way
            )
            self._turned_away, self._logged_at = 0, now
        if too_many:
            raise TurnedAway
