"""The moments at which a process may send, and what becomes of those that it misses.

A limiter that counts requests where they are allowed says little of when they arrive: a process deferred for a tenth of a
second would send a tenth of a second's requests at once, on top of those that are on time. So a moment is good for
:data:`LATE` seconds and is then lost, and moments are :data:`PACE` times as dense as the rate permits. Requests that leave
within one second have their moments within ``1 + LATE`` seconds; of these there are ``rate * PACE * (1 + LATE)``, which is
less than ``rate``. Whether a moment is still good is looked at twice: when a request is let go, and when its connection is open
and its first byte is about to leave. What the network and the other side's own hesitation add comes on top.
"""

from collections import deque

#: Share of the permitted rate that is used.
PACE = 0.97
#: Seconds for which a moment is good. ``PACE * (1 + LATE) <= 1``.
LATE = 0.03


class Schedule:
    """Moments, ascending, on one process's monotonic clock (seconds)."""

    def __init__(self) -> None:
        self._moments: deque[float] = deque()
        #: Moments that passed unused.
        self.lost = 0

    def add(self, first: float, interval: float, n: int) -> None:
        """``n`` moments from ``first`` on, after all that are there already."""
        first = max(first, self.last + interval)
        self._moments.extend(first + i * interval for i in range(n))

    def take(self, now: float) -> float | None:
        """Use up a moment that has come, and say which; ``None`` if there is none."""
        self._lose(now)
        if self._moments and self._moments[0] <= now:
            return self._moments.popleft()
        return None

    def left(self, now: float) -> int:
        """How many moments can still be used."""
        self._lose(now)
        return len(self._moments)

    @property
    def next(self) -> float | None:
        """The next moment."""
        return self._moments[0] if self._moments else None

    @property
    def last(self) -> float:
        """The last moment, or minus infinity."""
        return self._moments[-1] if self._moments else float("-inf")

    def forget_before(self, moment: float) -> None:
        """Nothing is sent before ``moment`` after all."""
        while self._moments and self._moments[0] < moment:
            self._moments.popleft()

    def forget_from(self, moment: float) -> None:
        """From ``moment`` on, other moments count."""
        while self._moments and self._moments[-1] >= moment:
            self._moments.pop()

    def _lose(self, now: float) -> None:
        while self._moments and self._moments[0] < now - LATE:
            self._moments.popleft()
            self.lost += 1
