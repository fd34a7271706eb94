"""The time by which the worker decides: read from the database once, then advanced by this process's monotonic clock.

If each worker used its own wall clock, a worker with a wrong clock would write to users at night. All workers share the database's clock.
"""

import time
from datetime import UTC, datetime, timedelta


class CarriedClock:
    """A clock that is set to a known moment and then runs by itself."""

    def __init__(self, moment: datetime | None = None) -> None:
        self.set(moment or datetime.now(UTC))

    def set(self, moment: datetime) -> None:
        """Set the present moment."""
        self._moment = moment
        self._set_at = time.monotonic()

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        return self._moment + timedelta(seconds=time.monotonic() - self._set_at)
