"""What reading a file yields: rows, problems with rows, and notes about the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)  # not frozen: an import makes a million, and making a frozen one takes three times as long
class Row:
    """One good row of a file: the values of its columns."""

    line: int
    values: Mapping[str, Any] = field(repr=False)  # addresses are among them


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row is refused, with its line number. The text quotes GUIDs and numbers, never an address."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Note:
    """A remark about the file as a whole. No row is refused for it."""

    text: str

    def __str__(self) -> str:
        return self.text
