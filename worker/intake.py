"""Reading what `reconnect import` is given: CSV or JSON Lines, one member a row, every problem told by its line.

Only ``user_guid`` and ``member_guid`` are required. A column that a file does not have leaves what is stored untouched; an empty
cell empties it.
"""

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo

from worker.errors import UsageError
from worker.mx.identifiers import is_member_guid, is_user_guid
from worker.policy.channel_choice import CHOICES, PUSH_KINDS
from worker.settings import CONNECTION_STATUSES

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
_MAIL = re.compile(r"[^\s@<>,;:\"\\\[\]()]+@[^\s@<>,;:\"\\\[\]()]+\.[^\s@<>,;:\"\\\[\]().]+")
#: What a problem may quote: words and figures. Where columns have slipped, an address or a device's token stands in their place.
_QUOTABLE = re.compile(r"[\w .:/+-]{1,40}")
#: Cells of a column that are remembered at most, and columns of which none are.
_REMEMBERED = 10_000
_SELDOM_TWICE = {"user_guid", "member_guid", "email", "device_address"}
_LONGEST = {"institution_code": 128, "institution_name": 200, "device_address": 4096, "email": 254}


@dataclass(slots=True)  # not frozen: a million of them are made, and a frozen one takes three times as long
class Row:
    """One row of a file: the columns it has, read."""

    line: int
    values: Mapping[str, Any] = field(repr=False)  # addresses are among them


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be taken, in one line that names it. It quotes GUIDs and figures, never an address."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


def read(path: Path) -> Iterator[Row | Problem]:
    """The rows of a file and the problems in it, in order. Raises :class:`UsageError` if it is no such file at all."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _json_rows(file) if path.suffix.lower() in {".jsonl", ".ndjson", ".json"} else _csv_rows(file)
    except OSError as error:
        raise UsageError(f"import: {path.name}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise UsageError(f"import: {path.name}: it is not UTF-8 text") from None


def _csv_rows(file: TextIO) -> Iterator[Row | Problem]:
    """Each line is read by itself: no column may hold a line break, and a quote left open spoils its own line only."""
    try:
        header = [name.strip().lower() for name in _cells(next(file, ""))]
    except csv.Error as error:
        raise UsageError(f"import: line 1: the header is no CSV: {error}") from None
    _check_columns(header)
    columns = [(name, _reader(name)) for name in header]
    for number, text in enumerate(file, start=2):
        try:
            cells = _cells(text)
        except csv.Error as error:
            yield Problem(number, f"is no CSV: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            yield Problem(number, f"has {len(cells)} cells where the header has {len(header)}")
            continue
        try:
            values = {name: read(cell) for (name, read), cell in zip(columns, cells, strict=True)}
        except ValueError:
            yield _row(number, dict(zip(header, cells, strict=True)))  # which names the cell
        else:
            yield _whole(number, values)


def _cells(line: str) -> list[str]:
    """The cells of a line; where nothing is quoted, a comma is a comma, and no reader needs to be made for it."""
    if '"' in line or len(line) > csv.field_size_limit():
        return next(csv.reader([line], strict=True), [])
    line = line.rstrip("\r\n")
    return line.split(",") if line else []


def _json_rows(file: TextIO) -> Iterator[Row | Problem]:
    for number, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            yield Problem(number, "is no JSON")
            continue
        if not isinstance(raw, dict):
            yield Problem(number, "is no JSON object")
        elif unknown := sorted(set(raw) - set(COLUMNS)):
            yield Problem(number, f"has unknown keys: {', '.join(map(_shown, unknown[:5]))}")
        else:
            yield _row(number, raw)


def _check_columns(header: list[str]) -> None:
    if missing := [name for name in ("user_guid", "member_guid") if name not in header]:
        raise UsageError(f"import: line 1: the header lacks {' and '.join(missing)}; columns are {', '.join(COLUMNS)}")
    if unknown := [name for name in header if name not in COLUMNS]:
        raise UsageError(f"import: line 1: unknown column {_shown(unknown[0])}; columns are {', '.join(COLUMNS)}")
    if len(set(header)) < len(header):
        raise UsageError("import: line 1: a column stands twice in the header")


def _row(line: int, raw: Mapping[str, Any]) -> Row | Problem:
    values: dict[str, Any] = {}
    for name, cell in raw.items():
        try:
            values[name] = _value(name, cell)
        except ValueError as error:
            return Problem(line, f"{name} {error}")
    return _whole(line, values)


def _whole(line: int, values: Mapping[str, Any]) -> Row | Problem:
    """What no single cell can tell."""
    for name in ("user_guid", "member_guid"):
        if values.get(name) is None:
            return Problem(line, f"{name} is missing")
    if (values.get("device_kind") is None) != (values.get("device_address") is None):
        return Problem(line, "device_kind and device_address go together")
    return Row(line, values)


def _value(name: str, cell: object) -> Any:
    """What a cell of a column says; ``ValueError`` if it says nothing that the column may hold."""
    if isinstance(cell, list | dict):
        raise ValueError("must be one value")  # noqa: TRY004 - a bad cell is a ValueError like any other
    value = cell.strip() if isinstance(cell, str) else cell
    if value is None or value == "":
        return None
    read = _READERS.get(name, _text)(value)
    if isinstance(read, str) and len(read) > _LONGEST.get(name, 128):
        raise ValueError(f"is longer than {_LONGEST.get(name, 128)} characters")
    return read


class _Memory(dict[str, Any]):
    """What the cells of one column say, for columns whose cells are few: statuses, banks, time zones, moments by the day."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, cell: str) -> Any:
        value = _value(self._name, cell)
        if len(self) < _REMEMBERED:
            self[cell] = value
        return value


def _reader(name: str) -> Callable[[str], Any]:
    """Reads the cells of a CSV's column."""
    return partial(_value, name) if name in _SELDOM_TWICE else _Memory(name).__getitem__


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - a bad cell is a ValueError like any other
    if not all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in value):
        raise ValueError("holds a control character")
    return value


def _user_guid(value: object) -> str:
    if not isinstance(value, str) or not is_user_guid(value):
        raise ValueError(f"{_shown(value)} is no user GUID; it starts with USR-")
    return value


def _member_guid(value: object) -> str:
    if not isinstance(value, str) or not is_member_guid(value):
        raise ValueError(f"{_shown(value)} is no member GUID; it starts with MBR-")
    return value


def _status(value: object) -> str:
    """A name, known or not (MX adds new ones), or MX's number for one."""
    if not isinstance(value, bool) and re.fullmatch(r"\d{1,3}", str(value)):
        if int(str(value)) < len(CONNECTION_STATUSES):
            return CONNECTION_STATUSES[int(str(value))]
    elif isinstance(value, str) and _STATUS.fullmatch(value.upper()):
        return value.upper()
    raise ValueError(f"{_shown(value)} is no status such as DENIED")


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in _TRUE:
        return True
    if str(value).lower() in _FALSE:
        return False
    raise ValueError(f"{_shown(value)} is neither true nor false")


def _integer(value: object) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value)):
        raise ValueError(f"{_shown(value)} is no error code such as 2004")
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
    raise ValueError(f"{_shown(value)} is no moment such as 2026-11-01T09:30:00Z")


def _email(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or not _MAIL.fullmatch(value):
        raise ValueError("is no e-mail address")
    return value


def _locale(value: object) -> str:
    if not isinstance(value, str) or not _LOCALE.fullmatch(value):
        raise ValueError(f"{_shown(value)} is no locale such as fr-CA")
    return value


@lru_cache(maxsize=1024)
def _timezone(value: object) -> str:
    try:
        return ZoneInfo(str(value)).key
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{_shown(value)} is no time zone such as Europe/Madrid") from None


def _channel(value: object) -> str:
    if value not in CHOICES:
        raise ValueError(f"{_shown(value)} is none of {', '.join(CHOICES)}")
    return str(value)


def _device_kind(value: object) -> str:
    if value not in PUSH_KINDS:
        raise ValueError(f"is none of {', '.join(PUSH_KINDS)}")
    return str(value)


def _shown(value: object) -> str:
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
