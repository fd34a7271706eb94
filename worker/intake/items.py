"""What reading a file gives: rows, rows that cannot be taken, and what is to be said of the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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


@dataclass(frozen=True, slots=True)
class Note:
    """What the importer should know of the file as a whole; it costs no row."""

    text: str

    def __str__(self) -> str:
        return self.text
