"""More requests than this process can serve: some are told to come back, so that the others are served soon.

Without this every request would wait behind all that came before it. At 200 presses a second, where a process serves 125, the queue
grows by 75 a second, and after half a minute nobody is served before they give up.

What counts is the transactions in hand: all of a process's work passes through its few connections to the database, so the queue forms
there. Requests that wait for MX, or whose clients are slow to send, do not count. A handler asks right before its first transaction, so
that a burst cannot pass all at once.

Never turned away: opt-outs by a link, since a mailbox provider may not try twice (they wait for one another, see ``optout.py``);
webhooks, which have a queue of their own (``intake.py``); ``/done`` and probes, which need no database.
"""

import time
from collections.abc import Callable

import structlog

from worker.store.sql.database import Database

log = structlog.get_logger()

#: Transactions in hand from which on customers are told to come back. They take about a quarter of a second.
MOST = 60
#: The same for programs that ask the API: a company's server can ask again, and must not take the customers' places.
MOST_FOR_PROGRAMS = 30
#: Seconds between two lines of the log about it.
TELL_EVERY = 10.0


class TurnedAway(Exception):  # noqa: N818 - not an error: the answer is "come back"
    """This process has too much in hand. The guard answers."""


class Overload:
    """Watches the transactions of one process."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._turned_away = 0
        self._told_at = float("-inf")

    def check(self, *, most: int = MOST) -> None:
        """Raise :class:`TurnedAway` if ``most`` transactions are in hand. The log says how many requests that concerned."""
        too_many = self._database.in_hand >= most
        self._turned_away += too_many
        if self._turned_away and (now := self._clock()) >= self._told_at + TELL_EVERY:
            log.warning("web_overloaded", turned_away=self._turned_away, transactions=self._database.in_hand)
            self._turned_away, self._told_at = 0, now
        if too_many:
            raise TurnedAway
