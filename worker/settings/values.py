"""Parses the settings that are not plain text: durations, caps, quiet hours, a mail server.

Each ``parse_…`` takes a setting's text and returns a value, or raises ``ValueError`` with what was expected.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from worker.settings.urls import is_loopback, split

#: Every ``connection_status`` that MX documents, in the order of their ids (0 to 21).
CONNECTION_STATUSES = (
    "CREATED", "PREVENTED", "DENIED", "CHALLENGED", "REJECTED", "LOCKED", "CONNECTED", "IMPEDED", "RECONNECTED",
    "DEGRADED", "DISCONNECTED", "DISCONTINUED", "CLOSED", "DELAYED", "FAILED", "UPDATED", "DISABLED", "IMPORTED",
    "RESUMED", "EXPIRED", "IMPAIRED", "PENDING",
)  # fmt: skip

#: Where each flavour of MX's API is, by ``MX_API``: MX's integration environment, which is the default, and production.
MX_BASE_URLS = {
    "atrium": ("https://vestibule.mx.com", "https://atrium.mx.com"),
    "platform": ("https://int-api.mx.com", "https://api.mx.com"),
}

#: The flavours in which users and members may be named by own ids.
MX_OWN_IDS = frozenset({"platform"})

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d{1,9})([smhdw])")
_LONGEST = timedelta(days=36_500)
_SMTP_PORTS = {"smtp": 587, "smtps": 465}


def parsed(parse: Callable[[str], Any]) -> tuple[Any, Any]:
    """Annotations for a setting that ``parse`` reads; without them pydantic-settings would expect JSON."""
    return NoDecode, BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def parse_words(text: str) -> tuple[str, ...]:
    """``a,b,c`` as a tuple; empty text is an empty tuple."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``24h``, ``7d``, ``2w`` or sums of them (``1h30m``); ``0`` and empty text mean zero."""
    text = text.strip().lower()
    if text in {"", "0"}:
        return timedelta(0)
    if not re.fullmatch(rf"({_DURATION.pattern})+", text):
        raise ValueError("expected a duration such as 90s, 15m, 24h or 7d, or 0 for none")
    try:
        span = sum((timedelta(**{_UNITS[unit]: int(n)}) for n, unit in _DURATION.findall(text)), timedelta(0))
    except OverflowError:
        span = timedelta.max
    if span > _LONGEST:
        raise ValueError("must be at most 36500d")
    return span


@dataclass(frozen=True, slots=True)
class Cap:
    """At most ``count`` messages to one user within any span of length ``within``."""

    count: int
    within: timedelta


def parse_caps(text: str) -> tuple[Cap, ...]:
    """``1/24h,3/7d``; empty text or ``0`` means no cap."""
    if text.strip() in {"", "0"}:
        return ()
    caps = []
    for part in text.split(","):
        count, slash, within = part.strip().partition("/")
        if not slash or not re.fullmatch(r"\d{1,9}", count) or int(count) < 1 or not (span := parse_duration(within)):
            raise ValueError("expected caps such as 1/24h,3/7d: a number of messages, a slash and a duration")
        caps.append(Cap(int(count), span))
    return tuple(caps)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """No message is sent from ``start`` until just before ``end`` on the user's own clock. May wrap midnight, as 21:00-08:00 does."""

    start: time
    end: time


def parse_quiet_hours(text: str) -> QuietHours | None:
    """``21:00-08:00``; empty text or ``0`` means no quiet hours."""
    if text.strip() in {"", "0"}:
        return None
    match = re.fullmatch(r"\s*(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2})\s*", text)
    try:
        start, end = (time.fromisoformat(part.zfill(5)) for part in match.groups()) if match else (None, None)
    except ValueError:
        start = end = None
    if start is None or end is None or start == end:
        raise ValueError("expected quiet hours such as 21:00-08:00, or nothing for none")
    return QuietHours(start, end)


def parse_days(text: str) -> tuple[int, ...]:
    """``0,3,7,14,30``: days after the first message, ascending, starting with 0. Empty text means no reminders."""
    parts = [part.strip() for part in text.split(",") if part.strip()] or ["0"]
    if not all(re.fullmatch(r"\d{1,5}", part) for part in parts):
        raise ValueError("expected days such as 0,3,7,14,30")
    days = tuple(int(part) for part in parts)
    if days[0] != 0 or sorted(set(days)) != list(days):
        raise ValueError("expected ascending days that start at 0, such as 0,3,7,14,30")
    return days


def parse_notice_days(text: str) -> tuple[int, ...]:
    """``7,2``: days before a token's expiry, descending; empty text or ``0`` means no notice."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if parts in ([], ["0"]):
        return ()
    if not all(re.fullmatch(r"[1-9]\d{0,2}", part) for part in parts):
        raise ValueError("expected days before a token expires such as 7,2, or nothing for no notice")
    days = tuple(int(part) for part in parts)
    if sorted(set(days), reverse=True) != list(days):
        raise ValueError("expected descending days, such as 7,2")
    return days


#: A domain needs a dot: Apple refuses a contact at ``localhost``.
_CONTACT = re.compile(r"(mailto:[^@\s]+@|https://)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+([/?][!-~]*)?")


def parse_contact(text: str) -> str:
    """A ``mailto:`` or ``https:`` URL on a real domain: the contact that a Web Push sender must give (RFC 8292)."""
    if not _CONTACT.fullmatch(text):
        raise ValueError("expected mailto:you@example.com or https://example.com/contact")
    return text


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The mail server that takes our mail."""

    host: str
    port: int
    username: str | None
    password: str | None
    #: ``implicit`` (smtps), ``starttls`` (required, never opportunistic) or ``none`` (loopback only).
    tls: str

    def __repr__(self) -> str:
        return f"SmtpServer({self.host}:{self.port}, tls={self.tls})"


def parse_smtp_url(text: str) -> SmtpServer:
    """``smtp://user:password@host:587?tls=required`` or ``smtps://…``; ``tls=none`` is allowed on loopback only."""
    expected = "expected smtp://user:password@host:587?tls=required, or smtps://…"
    url = split(text, expected)
    host, port = url.hosts[0]
    if url.scheme not in _SMTP_PORTS or not host or "/" in host or url.path not in {"", "/"}:
        raise ValueError(expected)
    options = dict(url.options)
    if set(options) - {"tls"}:
        raise ValueError(f"{expected}; the only option is tls")
    wanted = options.get("tls", "required")
    if wanted not in {"required", "none"}:
        raise ValueError("tls must be required, or none on loopback")
    if url.scheme == "smtps":
        tls = "implicit"
    elif wanted == "none":
        if not is_loopback(host):
            raise ValueError("tls=none would send mail and password in the clear; it is allowed on loopback only")
        tls = "none"
    else:
        tls = "starttls"
    return SmtpServer(
        host=host,
        port=port or _SMTP_PORTS[url.scheme],
        username=url.username,
        password=url.password,
        tls=tls,
    )
