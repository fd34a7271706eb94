"""How long are ended reconnections and messages kept?

For ``RETENTION_DAYS``, or longer while a rule still reads them: the messages that ``MESSAGE_CAPS`` counts, the endings that prevent
another notice (``EXPIRY_NOTICE_DAYS``), and the breaks that show what is usual at an institution (14 days and an hour). The longest of
these spans, and a day more, is the least age of what is deleted.

Example: with ``RETENTION_DAYS=7``, ``MESSAGE_CAPS=1/24h,3/7d`` and no notices, ended reconnections are deleted at an age of 15 days and an hour.
"""

from collections.abc import Sequence
from datetime import timedelta

from worker.policy.outage import HISTORY, WINDOW
from worker.settings.values import Cap

#: Clocks differ, and a message ends a little after the reconnection that it is about.
_MARGIN = timedelta(days=1)


def age_of_deletion(days: int, *, notice_days: Sequence[int], caps: Sequence[Cap]) -> timedelta:
    """How long ago a reconnection must have ended to be deleted; ``days`` is ``RETENTION_DAYS``."""
    decides = [HISTORY + WINDOW, *(timedelta(days=day) for day in notice_days), *(cap.within for cap in caps)]
    return max(timedelta(days=days), max(decides) + _MARGIN)
