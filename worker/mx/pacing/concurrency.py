"""How many requests does one process keep in flight? AIMD: additive increase, multiplicative decrease.

- The limit begins at ``MX_MAX_CONNECTIONS``, and never exceeds it.
- A 429 or a timeout cuts it to 0.7 of itself, but not below 2. Requests that were in flight at the cut do not cut it again: they
  fail for the same reason.
- A round is as many requests as the limit. Each round that goes well adds 4. While less than half of the limit is used, success
  does not show that a higher limit would work, so the limit does not grow.

Example: 200, a 429: 140, another a second later: 98. Then it takes 26 rounds back to 200: 26 s if a call takes a second.
"""

from collections.abc import Callable

#: The limit is never cut below this.
FLOOR = 2
#: By how much a round that goes well raises the limit.
GROWTH = 4.0
#: The limit is multiplied by this when MX answers 429 or not in time.
CUT = 0.7

#: The weight of the latest request in the moving average of how long one takes.
_WEIGHT = 0.05


class ConcurrencyLimit:
    """Slots for requests in flight; ``maximum`` of them, and as many from the start."""

    def __init__(self, maximum: int, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._maximum = float(maximum)
        self._cut_at = float("-inf")
        #: The limit now; it counts rounded down.
        self.limit = self._maximum
        #: Slots in use.
        self.in_flight = 0
        #: The average duration of a request (seconds).
        self.seconds = 1.0

    @property
    def free(self) -> int:
        """Free slots; zero or negative after a cut."""
        return int(self.limit) - self.in_flight

    def turnover(self, seconds: float) -> float:
        """How many requests end in this many seconds while all slots are in use."""
        return int(self.limit) * seconds / max(self.seconds, 0.001)

    @property
    def flow(self) -> float:
        """How many requests end in a second, at present."""
        return self.in_flight / max(self.seconds, 0.001)

    def leave(self, began: float) -> None:
        """A request that began at ``began`` has ended."""
        self.in_flight -= 1
        self.seconds += _WEIGHT * (self._clock() - began - self.seconds)

    def went_well(self) -> None:
        """MX served a request: raise the limit, unless less than half of it is used."""
        if self.limit < self._maximum and self.in_flight * 2 >= self.limit:
            self.limit = min(self._maximum, self.limit + GROWTH / self.limit)

    def pushed_back(self, began: float) -> None:
        """MX answered 429 to a request that began at ``began``, or did not answer in time: cut the limit."""
        if began >= self._cut_at:
            self._cut_at = self._clock()
            self.limit = max(min(FLOOR, self._maximum), self.limit * CUT)
