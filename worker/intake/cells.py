"""The rules for each column of an import: which cells are allowed, and which value a cell becomes."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any
from zoneinfo import ZoneInfo

from worker.channels.email.addresses import NotAMailbox, parse_mailbox
from worker.intake.items import Problem, Row
from worker.mx.identifiers import names_member, names_user
from worker.plain_text import shown_value
from worker.policy.channel_choice import CHOICES, DEVICE_CHANNELS
from worker.policy.columns import channel_of, device_kind_of, status_of, truth_of
from worker.policy.moments import NEVER, read_moment
from worker.policy.zones import zone_named
from worker.settings.values import CONNECTION_STATUSES

USER_COLUMNS = ("email", "locale", "timezone", "channel")
MEMBER_COLUMNS = (
    "institution_code",
    "institution_name",
    "connection_status",
    "is_oauth",
    "error_code",
    "token_expires_at",
    "token_revoked_at",
)
DEVICE_COLUMNS = ("device_kind", "device_address")
COLUMNS = ("user_guid", "member_guid", *MEMBER_COLUMNS, *USER_COLUMNS, *DEVICE_COLUMNS)

#: Words that programs write for a missing value. Without this check a bank would be called NULL.
_MISSING = {"null", "\\n", "nan", "none", "n/a", "#n/a", "<na>", "nil", "nat", "undefined", "(null)", "[null]"}
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_STATUS = re.compile(r"[A-Z_]{1,64}")
_LINE_BREAK = re.compile(r"[ \t]*[\r\n]+[ \t]*")
#: The most cells of a column whose values are cached, and the columns whose values hardly ever repeat, which are not cached.
_CACHE_SIZE = 10_000
_UNCACHED = {"user_guid", "member_guid", "email", "device_address"}
LONGEST = {"institution_code": 128, "institution_name": 200, "device_address": 4096, "email": 254}


def value_of(name: str, cell: object, *, own_ids: bool = False) -> Any:
    """The value of a cell; ``ValueError`` if it is not allowed in this column. ``own_ids``: see :func:`worker.intake.columns.slices`."""
    if isinstance(cell, list | dict):
        raise ValueError("must be one value")  # noqa: TRY004 - a bad cell is a ValueError like any other
    value = cell.strip() if isinstance(cell, str) else cell
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.lower() in _MISSING and name != "channel":
        raise ValueError(f"{value!r} is what a program writes for a missing value; leave the cell empty")
    parsed = _GUIDS[name](value, own_ids=own_ids) if name in _GUIDS else _READERS.get(name, _text)(value)
    if isinstance(parsed, str) and len(parsed) > LONGEST.get(name, 128):
        raise ValueError(f"is longer than {LONGEST.get(name, 128)} characters")
    return parsed


class _Cache(dict[str, Any]):
    """The values of one column's cells, for columns with few different cells: statuses, banks, time zones, days."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, cell: str) -> Any:
        value = value_of(self._name, cell)
        if len(self) < _CACHE_SIZE:
            self[cell] = value
        return value


def reader(name: str, *, own_ids: bool = False) -> Callable[[str], Any]:
    """A function that reads the cells of this column."""
    return partial(value_of, name, own_ids=own_ids) if name in _UNCACHED else _Cache(name).__getitem__


def _text(value: object) -> str:
    """Text on one line: a line break in a cell becomes a space."""
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - a bad cell is a ValueError like any other
    if not value.isprintable():
        value = _LINE_BREAK.sub(" ", value)
        if not all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in value):
            raise ValueError("holds a control character")
    return value


def _user_guid(value: object, *, own_ids: bool) -> str:
    if not names_user(value, own_ids=own_ids):
        raise ValueError(f"{shown_value(value)} is no user GUID{_expected_form(own_ids, 'USR-')}")
    return value


def _member_guid(value: object, *, own_ids: bool) -> str:
    if not names_member(value, own_ids=own_ids):
        raise ValueError(f"{shown_value(value)} is no member GUID{_expected_form(own_ids, 'MBR-')}")
    return value


def _expected_form(own_ids: bool, prefix: str) -> str:
    return " and no id of yours: letters, digits, - and _" if own_ids else f"; it starts with {prefix}"


def _status(value: object) -> str:
    """A status's name, even an unknown one, since MX adds new ones; or MX's number of a status."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        status = status_of(str(value))
        if status is not None and _STATUS.fullmatch(status):
            return status
    raise ValueError(
        f"{shown_value(value)} is no status such as DENIED, and none of MX's numbers 0 to {len(CONNECTION_STATUSES) - 1}"
    )


def _truth(value: object) -> bool:
    truth = value if isinstance(value, bool) else truth_of(str(value))
    if truth is None:
        raise ValueError(f"{shown_value(value)} is neither true nor false")
    return truth


def _integer(value: object) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value)):
        raise ValueError(f"{shown_value(value)} is no error code such as 2004")
    return int(str(value))


@lru_cache(maxsize=4096)
def _moment(value: object) -> datetime:
    """A moment. One that means *never*, such as 9999-12-31, is refused; an empty cell means the same and is unambiguous."""
    moment = read_moment(value) if isinstance(value, str) else None
    if moment is None:
        raise ValueError(f"{shown_value(value)} is no moment such as 2026-11-01T09:30:00Z, from 1990 on")
    if moment == NEVER:
        raise ValueError(f"{shown_value(value)} is no moment before 2200; leave the cell empty for never")
    return moment


def _email(value: object) -> str:
    try:
        parse_mailbox(value if isinstance(value, str) else "")
    except NotAMailbox:
        raise ValueError("is no e-mail address") from None
    return str(value)


def _locale(value: object) -> str:
    if not isinstance(value, str) or not _LOCALE.fullmatch(value):
        raise ValueError(f"{shown_value(value)} is no locale such as fr-CA")
    return value


@lru_cache(maxsize=1024)
def _timezone(value: object) -> str:
    """A time zone's name in the tz database, or the text itself for a fixed offset."""
    zone = zone_named(value) if isinstance(value, str) else None
    if zone is None:
        raise ValueError(f"{shown_value(value)} is no time zone such as Europe/Madrid")
    return zone.key if isinstance(zone, ZoneInfo) else str(value)


def _channel(value: object) -> str:
    channel = channel_of(value) if isinstance(value, str) else None
    if channel is None:
        raise ValueError(f"{shown_value(value)} is none of {', '.join(CHOICES)}")
    return channel


def _device_kind(value: object) -> str:
    kind = device_kind_of(value) if isinstance(value, str) else None
    if kind is None:
        raise ValueError(f"is none of {', '.join(DEVICE_CHANNELS)}")
    return kind


_GUIDS = {"user_guid": _user_guid, "member_guid": _member_guid}
_READERS: dict[str, Callable[[object], Any]] = {
    "connection_status": _status,
    "is_oauth": _truth,
    "error_code": _integer,
    "token_expires_at": _moment,
    "token_revoked_at": _moment,
    "email": _email,
    "locale": _locale,
    "timezone": _timezone,
    "channel": _channel,
    "device_kind": _device_kind,
}


def row_of(line: int, raw: Mapping[str, Any], *, own_ids: bool = False) -> Row | Problem:
    """The row of these cells, or the problem of the first bad cell."""
    values: dict[str, Any] = {}
    for name, cell in raw.items():
        try:
            values[name] = value_of(name, cell, own_ids=own_ids)
        except ValueError as error:
            return Problem(line, f"{name} {error}")
    return checked_row(line, values)


def checked_row(line: int, values: Mapping[str, Any]) -> Row | Problem:
    """The row of these values, or a problem that concerns the row as a whole, such as a missing GUID."""
    for name in ("user_guid", "member_guid"):
        if values.get(name) is None:
            return Problem(line, f"{name} is missing")
    if (values.get("device_kind") is None) != (values.get("device_address") is None):
        return Problem(line, "device_kind and device_address go together")
    return Row(line, values)
