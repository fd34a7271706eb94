"""``Retry-After``: how long a server asks its client to wait (RFC 9110, 10.2.3)."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def retry_after(headers: Mapping[str, str], *, longest: float) -> float | None:
    """The seconds to wait, from 0 to ``longest``; ``None`` if the header is missing, invalid or negative."""
    value = _header(headers, "retry-after")
    if _SECONDS.fullmatch(value):
        return min(float(value), longest)
    until = _date(value)
    if until is None:
        return None
    # A date is by the server's clock, so it is compared with the server's ``Date`` header, if there is one.
    now = _date(_header(headers, "date")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), longest)


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value.strip() for key, value in headers.items() if key.lower() == name), "")


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
