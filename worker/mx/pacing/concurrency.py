"""How many requests does one process keep in flight?

As many as MX takes well: a few more with every round that goes well, 0.7 times as many when MX pushes back with a 429 or does not
answer in time. What was under way when the number was cut fails for the same reason, so it cuts no further.
"""

from collections.abc import Callable

#: Never fewer.
FLOOR = 2
#: More requests in flight after a round in which all of them went well.
GROWTH = 4.0
#: What is left of them when MX pushes back.
CUT = 0.7

#: How much the latest request counts in the mean time that one takes.
_WEIGHT = 0.05


class ConcurrencyLimit:
    """Places for requests in flight; ``most`` of them, and as many from the start."""

    def __init__(self, most: int, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._most = float(most)
        self._cut_at = float("-inf")
        #: As many as there may be now; the whole part counts.
        self.limit = self._most
        #: As many as there are.
        self.in_flight = 0
        #: What a request takes on average (seconds).
        self.seconds = 1.0

    @property
    def free(self) -> int:
        """Places to be had; none or fewer where the number was cut."""
        return int(self.limit) - self.in_flight

    def turnover(self, seconds: float) -> float:
        """How many requests come to their end in so many seconds when all places are taken."""
        return int(self.limit) * seconds / max(self.seconds, 0.001)

    @property
    def flow(self) -> float:
        """How many requests come to their end in a second, at present."""
        return self.in_flight / max(self.seconds, 0.001)

    def leave(self, began: float) -> None:
        """A request that ``began`` then is over."""
        self.in_flight -= 1
        self.seconds += _WEIGHT * (self._clock() - began - self.seconds)

    def went_well(self) -> None:
        """MX served a request. Where half of the places are idle, that says nothing about more of them."""
        if self.limit < self._most and self.in_flight * 2 >= self.limit:
            self.limit = min(self._most, self.limit + GROWTH / self.limit)

    def pushed_back(self, began: float) -> None:
        """MX refused or lost a request that ``began`` then."""
        if began >= self._cut_at:
            self._cut_at = self._clock()
            self.limit = max(min(FLOOR, self._most), self.limit * CUT)
