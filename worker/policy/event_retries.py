"""When is an event that was not accepted posted again, and when is it given up?

Many failures are not caused by the event: the endpoint is down, or answers every request with 500. So a failure counts as an attempt only if the
endpoint accepted another event since this one's last try. Until then the event waits 10 s, and its attempts stay as they are.

After each counted failure it waits 1 min, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h, each 10 % shorter or longer at random. The
tenth counted failure gives it up: about three days after the first. A longer ``Retry-After`` is honoured, up to a day.

Example: the receiver answers 500 to one event and accepts the others. First try 12:00:00, not counted; 12:00:10, counted,
next 12:01; 12:06; 12:36; 14:36; …; given up on the fourth day.
"""

from datetime import datetime, timedelta
from random import Random

import msgspec

SCHEDULE = tuple(
    timedelta(seconds=seconds) for seconds in (60, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
#: The wait after a failure that does not count.
SOON = timedelta(seconds=10)
#: The longest ``Retry-After`` that is honoured.
LONGEST_WAIT = timedelta(days=1)
_JITTER = 0.1


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of an event that was not accepted."""

    attempts: int
    #: When it is posted again; ``None``: it is given up.
    at: datetime | None


def after_failure(
    attempts: int, *, counts: bool, now: datetime, rng: Random, retry_after: float | None = None
) -> Retry:
    """When to post the event again.

    ``attempts``: counted failures before this one. ``counts``: whether this one counts. ``retry_after`` in seconds.
    """
    attempts += counts
    if attempts > len(SCHEDULE):
        return Retry(attempts=attempts, at=None)
    wait = SCHEDULE[attempts - 1] if counts else SOON
    wait *= 1 + _JITTER * (2 * rng.random() - 1)
    asked = min(timedelta(seconds=retry_after or 0), LONGEST_WAIT)
    return Retry(attempts=attempts, at=now + max(wait, asked))


def counts_as_attempt(tried_at: datetime | None, last_accepted_at: datetime | None) -> bool:
    """Whether a failure counts: another event was accepted after ``tried_at``, when this event was last tried."""
    return tried_at is not None and last_accepted_at is not None and last_accepted_at > tried_at
