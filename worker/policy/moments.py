"""Which texts are a moment? The one grammar for moments that applications write, in tables on SQLite and in imported files.

ISO 8601, date before time: ``2026-11-01T09:30:00Z``, ``2026-11-01 09:30``, ``20261101T093000+0100``, ``2026-11-01``. ``T`` or
spaces separate date and time; the separators within each are optional. Seconds are optional. Digits of a fraction after the sixth are
dropped. The offset is ``Z``, ``UTC``, ``+hh``, ``+hhmm`` or ``+hh:mm``; without one the moment is in UTC. Space around the text is
ignored. ``24:00``, second 60 and ``2026-09-31`` are not moments, nor is a number of seconds since 1970.

A moment from 1990 to 2199 is taken as it is. A later one means *never*: ``9999-12-31``, ``infinity``. An earlier one is not a moment: it
is a default such as ``0000-00-00`` or ``1970-01-01``, or a mistake. PostgreSQL's ``timestamptz`` is read by the same
rule (``store/sql/application.py``).
"""

import re
from datetime import UTC, datetime, timedelta, timezone

#: The first moment that is accepted, and the first that means *never*.
FIRST = datetime(1990, 1, 1, tzinfo=UTC)
FAR = datetime(2200, 1, 1, tzinfo=UTC)
#: The value for *never*: it is later than any plan.
NEVER = datetime(9999, 1, 1, tzinfo=UTC)

#: White space that is ignored around any value of an application.
BLANKS = " \t\n\v\f\r\u00a0"
#: A text with more characters is not a moment.
_LONGEST = 64

_MOMENT = re.compile(
    r"(?P<year>[0-9]{4}|\+?[0-9]{5,6}(?=-))(?P<dash>-?)(?P<month>[0-9]{2})(?P=dash)(?P<day>[0-9]{2})"
    r"(?:(?:[Tt]| +)(?P<hour>[0-9]{2})(?P<colon>:?)(?P<minute>[0-9]{2})"
    r"(?:(?P=colon)(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?"
    r" *(?P<offset>[Zz]|UTC|[+-][0-9]{2}(?::?[0-5][0-9])?)?)?"
)
_INFINITY = {"infinity", "+infinity", "never"}


def read_moment(text: str) -> datetime | None:
    """The moment that a text means, in UTC; :data:`NEVER` for one from 2200 on; ``None`` if it is none."""
    text = text.strip(BLANKS)
    if len(text) > _LONGEST:
        return None
    match = _MOMENT.fullmatch(text)
    if match is None:
        return NEVER if text.lower() in _INFINITY else None
    year = int(match["year"])
    fraction = (match["fraction"] or "")[:6].ljust(6, "0")
    try:
        moment = datetime(
            min(year, 9996),  # datetime ends with 9999; 9996 is a leap year, so that 29 February stays valid
            int(match["month"]),
            int(match["day"]),
            int(match["hour"] or 0),
            int(match["minute"] or 0),
            int(match["second"] or 0),
            int(fraction),
            tzinfo=_offset(match["offset"]),
        )
    except ValueError:
        return None
    if year < FIRST.year - 1:
        return None
    return NEVER if year > FAR.year else _within(moment.astimezone(UTC))


def _offset(text: str | None) -> timezone:
    if text is None or not text.startswith(("+", "-")):
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or 0))
    return timezone(-offset if text[0] == "-" else offset)


def _within(moment: datetime) -> datetime | None:
    """What a moment means: itself, :data:`NEVER`, or nothing."""
    if moment >= FAR:
        return NEVER
    return moment if moment >= FIRST else None
