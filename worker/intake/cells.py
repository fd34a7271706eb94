"""What a cell of an import says: the rules for each column, and nothing of files."""

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any
from zoneinfo import ZoneInfo

from worker.mx.identifiers import is_member_guid, is_user_guid
from worker.policy.channel_choice import CHOICES, PUSH_KINDS
from worker.setting_types import CONNECTION_STATUSES

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

_TRUE, _FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}
_LOCALE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_STATUS = re.compile(r"[A-Z_]{1,64}")
MAIL = re.compile(r"[^\s@<>,;:\"\\\[\]()]+@[^\s@<>,;:\"\\\[\]()]+\.[^\s@<>,;:\"\\\[\]().]+")
#: What a problem may quote: words and figures. Where columns have slipped, an address or a device's token stands in their place.
_QUOTABLE = re.compile(r"[\w .:/+-]{1,40}")
#: Cells of a column that are remembered at most, and columns of which none are.
_REMEMBERED = 10_000
SELDOM_TWICE = {"user_guid", "member_guid", "email", "device_address"}
LONGEST = {"institution_code": 128, "institution_name": 200, "device_address": 4096, "email": 254}


def value_of(name: str, cell: object) -> Any:
    """What a cell of a column says; ``ValueError`` if it says nothing that the column may hold."""
    if isinstance(cell, list | dict):
        raise ValueError("must be one value")  # noqa: TRY004 - a bad cell is a ValueError like any other
    value = cell.strip() if isinstance(cell, str) else cell
    if value is None or value == "":
        return None
    read = _READERS.get(name, _text)(value)
    if isinstance(read, str) and len(read) > LONGEST.get(name, 128):
        raise ValueError(f"is longer than {LONGEST.get(name, 128)} characters")
    return read


class _Memory(dict[str, Any]):
    """What the cells of one column say, for columns whose cells are few: statuses, banks, time zones, moments by the day."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, cell: str) -> Any:
        value = value_of(self._name, cell)
        if len(self) < _REMEMBERED:
            self[cell] = value
        return value


def reader(name: str) -> Callable[[str], Any]:
    """Reads the cells of a CSV's column."""
    return partial(value_of, name) if name in SELDOM_TWICE else _Memory(name).__getitem__


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - a bad cell is a ValueError like any other
    if not all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in value):
        raise ValueError("holds a control character")
    return value


def _user_guid(value: object) -> str:
    if not isinstance(value, str) or not is_user_guid(value):
        raise ValueError(f"{shown(value)} is no user GUID; it starts with USR-")
    return value


def _member_guid(value: object) -> str:
    if not isinstance(value, str) or not is_member_guid(value):
        raise ValueError(f"{shown(value)} is no member GUID; it starts with MBR-")
    return value


def _status(value: object) -> str:
    """A name, known or not (MX adds new ones), or MX's number for one."""
    if not isinstance(value, bool) and re.fullmatch(r"\d{1,3}", str(value)):
        if int(str(value)) < len(CONNECTION_STATUSES):
            return CONNECTION_STATUSES[int(str(value))]
    elif isinstance(value, str) and _STATUS.fullmatch(value.upper()):
        return value.upper()
    raise ValueError(f"{shown(value)} is no status such as DENIED")


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in _TRUE:
        return True
    if str(value).lower() in _FALSE:
        return False
    raise ValueError(f"{shown(value)} is neither true nor false")


def _integer(value: object) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value)):
        raise ValueError(f"{shown(value)} is no error code such as 2004")
    return int(str(value))


@lru_cache(maxsize=4096)
def _moment(value: object) -> datetime:
    """ISO 8601; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None:
            return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{shown(value)} is no moment such as 2026-11-01T09:30:00Z")


def _email(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or not MAIL.fullmatch(value):
        raise ValueError("is no e-mail address")
    return value


def _locale(value: object) -> str:
    if not isinstance(value, str) or not _LOCALE.fullmatch(value):
        raise ValueError(f"{shown(value)} is no locale such as fr-CA")
    return value


@lru_cache(maxsize=1024)
def _timezone(value: object) -> str:
    try:
        return ZoneInfo(str(value)).key
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{shown(value)} is no time zone such as Europe/Madrid") from None


def _channel(value: object) -> str:
    if value not in CHOICES:
        raise ValueError(f"{shown(value)} is none of {', '.join(CHOICES)}")
    return str(value)


def _device_kind(value: object) -> str:
    if value not in PUSH_KINDS:
        raise ValueError(f"is none of {', '.join(PUSH_KINDS)}")
    return str(value)


def shown(value: object) -> str:
    text = str(value)
    return repr(text) if _QUOTABLE.fullmatch(text) else f"a text of {len(text)} characters"


_READERS: dict[str, Callable[[object], Any]] = {
    "user_guid": _user_guid,
    "member_guid": _member_guid,
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
