"""When are notices sent, if thousands of members of one bank expire on the same day?

Such a wave comes a year after a bank moved its customers to a new API, or after a first import. If all of them were told on one
day, all would come to the bank, to MX and to the company's support on that day. So each member of a wave has a moment of its own, between
the nominal day of the notice and that of the next one (or the expiry, after the last). Its place in that span depends only on the
member's GUID: the place is always the same, and the places of many members are evenly spread.

Example with ``EXPIRY_NOTICE_DAYS=14,3`` and 100,000 members that expire on the 30th: the first notices leave evenly from the 16th to
the 24th, about 11,000 a day, and the second ones from the 27th to the 29th. Caps and quiet hours hold as always.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256

#: A wave: more members than this of one institution expire on one day (UTC).
WAVE = 100
#: The part of the time until the next notice over which a wave is spread. The rest is room for quiet hours and caps.
SHARE = 0.8

_ALL = 2**64


def is_wave(members: int) -> bool:
    """Whether so many members of one institution that expire on one day are a wave."""
    return members > WAVE


def place_of(member_guid: str) -> float:
    """The place of a member in every wave: from 0 to 1, evenly distributed by a hash."""
    return int.from_bytes(sha256(member_guid.encode("utf-8", "surrogatepass")).digest()[:8]) / _ALL


def spread(nominal: datetime, until: datetime, place: float) -> datetime:
    """When the notice of a member at this place leaves, between its nominal moment and ``until``, the next notice or the expiry."""
    return nominal + (until - nominal) * (SHARE * place) if until > nominal else nominal


def first_moment(expires_at: datetime, days: Sequence[int], *, now: datetime, place: float) -> datetime:
    """When the first notice of a member of a wave leaves, if it is opened ``now``; ``days`` is ``EXPIRY_NOTICE_DAYS``.

    A wave that is found late is spread over the time left until the next notice day.
    """
    dates = [expires_at - timedelta(days=day) for day in days]
    nominal = max([now, *dates[:1]])
    return spread(nominal, min((date for date in dates if date > nominal), default=expires_at), place)
