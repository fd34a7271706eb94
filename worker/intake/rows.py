"""Reading a file row by row: what is a row, and what is wrong with it.

Only ``user_guid`` and ``member_guid`` are required. A column that a file does not have leaves what is stored untouched; an empty
cell empties it.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from worker.errors import UsageError
from worker.intake.cells import COLUMNS, reader, shown, value_of


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
    with opened(path) as file:
        if is_json(path):
            yield from json_rows(file)
            return
        lines = CsvLines(file)
        for number, text in enumerate(file, start=2):
            if (item := lines.row(number, text)) is not None:
                yield item


def is_json(path: Path) -> bool:
    """Whether a file is JSON Lines by its name."""
    return path.suffix.lower() in {".jsonl", ".ndjson", ".json"}


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The file, its line ends as they are; what is wrong with it as a whole is a :class:`UsageError`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise UsageError(f"import: {path.name}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise UsageError(f"import: {path.name}: it is not UTF-8 text") from None


class CsvLines:
    """What the lines of a CSV say, by its header; ``UsageError`` if that is none.

    Each line is read by itself: no column may hold a line break, and a quote left open spoils its own line only.
    """

    def __init__(self, file: TextIO) -> None:
        try:
            self.header = [name.strip().lower() for name in _cells(next(file, ""))]
        except csv.Error as error:
            raise UsageError(f"import: line 1: the header is no CSV: {error}") from None
        _check_columns(self.header)
        #: What reads the cells of each column.
        self.readers = [reader(name) for name in self.header]

    def row(self, number: int, text: str) -> Row | Problem | None:
        """What a line says; nothing if it is blank."""
        try:
            cells = _cells(text)
        except csv.Error as error:
            return Problem(number, f"is no CSV: {error}")
        if not cells:
            return None
        if len(cells) != len(self.header):
            return Problem(number, f"has {len(cells)} cells where the header has {len(self.header)}")
        try:
            values = {name: read(cell) for name, read, cell in zip(self.header, self.readers, cells, strict=True)}
        except ValueError:
            return _row(number, dict(zip(self.header, cells, strict=True)))  # which names the cell
        return _whole(number, values)


def _cells(line: str) -> list[str]:
    """The cells of a line; where nothing is quoted, a comma is a comma, and no reader needs to be made for it."""
    if '"' in line or len(line) > csv.field_size_limit():
        return next(csv.reader([line], strict=True), [])
    line = line.rstrip("\r\n")
    return line.split(",") if line else []


def json_rows(file: TextIO) -> Iterator[Row | Problem]:
    """What the lines of JSON Lines say, each with the keys that it has."""
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
            yield Problem(number, f"has unknown keys: {', '.join(map(shown, unknown[:5]))}")
        else:
            yield _row(number, raw)


def _check_columns(header: list[str]) -> None:
    if missing := [name for name in ("user_guid", "member_guid") if name not in header]:
        raise UsageError(f"import: line 1: the header lacks {' and '.join(missing)}; columns are {', '.join(COLUMNS)}")
    if unknown := [name for name in header if name not in COLUMNS]:
        raise UsageError(f"import: line 1: unknown column {shown(unknown[0])}; columns are {', '.join(COLUMNS)}")
    if len(set(header)) < len(header):
        raise UsageError("import: line 1: a column stands twice in the header")


def _row(line: int, raw: Mapping[str, Any]) -> Row | Problem:
    values: dict[str, Any] = {}
    for name, cell in raw.items():
        try:
            values[name] = value_of(name, cell)
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
