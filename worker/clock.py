"""The time that policy goes by: the database's, carried on by this process's monotonic clock.

A wall clock that jumps in one worker would write to people at night; the database's is the same for all of them.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Something that knows what time it is."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""


class CarriedClock:
    """Set once to a known moment, it goes on by itself."""

    def __init__(self, moment: datetime | None = None) -> None:
        self.set(moment or datetime.now(UTC))

    def set(self, moment: datetime) -> None:
        """It is this moment now."""
        self._moment = moment
        self._set_at = time.monotonic()

    def now(self) -> datetime:
        return self._moment + timedelta(seconds=time.monotonic() - self._set_at)
