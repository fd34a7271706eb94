"""When is a failed attempt made again?

After up to 1 min, 5 min, 30 min, 2 h, 6 h, then 24 h each. The wait is a random time between 0 and that value (full jitter), so that
rows that failed together do not return together. A wait that the other side asked for is added.

Example: the third failure, with ``Retry-After: 60``. The next attempt is 1 to 31 minutes later.
"""

from datetime import datetime, timedelta
from random import Random

SCHEDULE = tuple(timedelta(seconds=s) for s in (60, 300, 1_800, 7_200, 21_600, 86_400))

#: No random wait is shorter: a retry at once would meet the same fault.
_FLOOR = timedelta(seconds=1)


def next_attempt(
    attempts: int, *, now: datetime, rng: Random, after: float | None = None, patient: bool = False
) -> datetime:
    """When to try again after the ``attempts``-th failure (1 for the first).

    ``after`` is a wait in seconds that the other side asked for; ``patient`` starts one step later, for a service that says
    that it is being updated (503).
    """
    step = min(attempts - 1 + patient, len(SCHEDULE) - 1)
    wait = max(SCHEDULE[step] * rng.random(), _FLOOR)
    return now + timedelta(seconds=after or 0) + wait
