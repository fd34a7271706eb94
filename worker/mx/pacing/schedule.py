"""The moments at which this process may send. A moment that it misses is lost.

A moment is valid for :data:`LATE` seconds (30 ms) and is then lost. Otherwise a process that was suspended for a tenth of a second
would then send the requests of that time at once, in addition to the current ones, and exceed the rate.

Because a request may leave up to 30 ms after its moment, moments are a little sparser than the rate permits: :data:`PACE` (0.97)
of it. Requests that leave within one second have their moments within 1.03 s. Example with 50 a second: 50 * 0.97 * 1.03 = 49.96,
so no second ever has more than 50.

Whether a moment is still valid is checked twice: when its request gets a permit, and when its connection is open, right before the
first byte. The time that the network takes is not accounted for.
"""

from collections import deque

#: Share of the permitted rate that is used.
PACE = 0.97
#: Seconds for which a moment is valid. ``PACE * (1 + LATE) <= 1``.
LATE = 0.03


class Schedule:
    """Moments, ascending, on one process's monotonic clock (seconds)."""

    def __init__(self) -> None:
        self._moments: deque[float] = deque()
        #: Moments that passed unused.
        self.lost = 0

    def add(self, first: float, interval: float, n: int) -> None:
        """Append ``n`` moments from ``first`` on, all of them after those that are here already."""
        first = max(first, self.last + interval)
        self._moments.extend(first + i * interval for i in range(n))

    def take(self, now: float) -> float | None:
        """Remove and return a moment that has come and is valid; ``None`` if there is none."""
        self._lose(now)
        if self._moments and self._moments[0] <= now:
            return self._moments.popleft()
        return None

    def count(self, now: float) -> int:
        """The number of moments that are not lost."""
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

    def drop_last(self) -> bool:
        """Give up the last moment; whether there was one."""
        return bool(self._moments) and self._moments.pop() is not None

    def forget_before(self, moment: float) -> None:
        """Drop the moments before ``moment``: no request is sent until then."""
        while self._moments and self._moments[0] < moment:
            self._moments.popleft()

    def forget_from(self, moment: float) -> None:
        """Drop the moments from ``moment`` on: the ledger granted others for that time."""
        while self._moments and self._moments[-1] >= moment:
            self._moments.pop()

    def _lose(self, now: float) -> None:
        while self._moments and self._moments[0] < now - LATE:
            self._moments.popleft()
            self.lost += 1
