"""Reads a CSV row by row, and reports what is wrong with a row.

Cells are separated by commas; semicolons, tabs and bars are accepted with a note. A quoted cell may contain line breaks. A quote that
is never closed makes only its own line bad: the following lines are searched for the closing quote, but the search ends at a line
that is a whole row by itself.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from worker.errors import UsageError
from worker.intake.cells import COLUMNS, checked_row, reader, row_of
from worker.intake.items import Note, Problem, Row
from worker.intake.lines import Lines, is_text
from worker.mx.identifiers import names_member, names_user
from worker.plain_text import shown_name

#: The separators of cells, and their names.
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_REQUIRED = ("user_guid", "member_guid")
#: The most lines of one row.
_LONGEST_ROW = 100


class CsvRows:
    """The rows of a CSV. Raises :class:`UsageError` if its first line is not a header."""

    def __init__(self, lines: Lines, *, own_ids: bool = False) -> None:
        self._lines = lines
        self._own_ids = own_ids
        header = "".join(lines.take(1))
        if not is_text(header):
            raise UsageError("import: line 1: the header holds bytes that are not UTF-8")
        self.separator, names = _header(header)
        #: The number of cells in a line.
        self.width = len(names)
        #: The known columns: index in a line, name, and the function that reads a cell.
        self.columns: Sequence[tuple[int, str, Callable[[str], Any]]] = [
            (place, name, reader(name, own_ids=own_ids)) for place, name in enumerate(names) if name in COLUMNS
        ]
        #: Notes about the file as a whole.
        self.notes = (
            [Note(f"its cells are separated by {_SEPARATORS[self.separator]}")] if self.separator != "," else []
        )
        self.notes += [skipped(name, f"column {place}") for place, name in enumerate(names, 1) if name not in COLUMNS]
        #: The number of the next line.
        self.line = 2

    def rows(self, count: int) -> Iterator[Row | Problem]:
        """The rows that begin in the next ``count`` lines."""
        end = self.line + count
        while self.line < end and (text := "".join(self._lines.take(1))):
            number = self.line
            self.line += 1
            if (item := self._row(number, text)) is not None:
                yield item

    def _row(self, number: int, text: str) -> Row | Problem | None:
        """The row that begins with this line; ``None`` if it is blank."""
        cells: list[str] | None
        try:
            cells = self._cells(text)
        except csv.Error as error:
            cells = self._over_more_lines(text) if '"' in text else None
            if cells is None:
                return Problem(number, f"is no CSV: {error}")
        if not cells:
            return None
        if not all(map(is_text, cells)):
            return Problem(number, "holds bytes that are not UTF-8")
        if len(cells) != self.width:
            return Problem(number, f"has {len(cells)} cells where the header has {self.width}")
        try:
            values = {name: read(cells[place]) for place, name, read in self.columns}
        except ValueError:
            cells_of = {name: cells[place] for place, name, _ in self.columns}
            return row_of(number, cells_of, own_ids=self._own_ids)  # which names the cell
        return checked_row(number, values)

    def _cells(self, text: str) -> list[str]:
        """The cells of a line. A line without quotes is split at the separators, which is faster than a ``csv.reader``."""
        if '"' in text or len(text) > csv.field_size_limit():
            return next(csv.reader([text], delimiter=self.separator, strict=True), [])
        text = text.rstrip("\r\n")
        return text.split(self.separator) if text else []

    def _over_more_lines(self, first: str) -> list[str] | None:
        """The cells of a row whose quoted cell contains line breaks; ``None`` if the quote is never closed. Then no line is taken."""
        further_lines: list[str] = []
        while len(further_lines) < _LONGEST_ROW and (next_line := self._lines.take(1)):
            further_lines += next_line
            if self._is_a_row(next_line[0]):
                break
            try:
                cells = next(csv.reader([first, *further_lines], delimiter=self.separator, strict=True))
            except csv.Error as error:
                if "unexpected end" in str(error):
                    continue
                break
            if len(cells) != self.width:
                break
            self.line += len(further_lines)
            return cells
        self._lines.give_back(further_lines)
        return None

    def _is_a_row(self, text: str) -> bool:
        try:
            cells = self._cells(text)
        except csv.Error:
            return False
        if len(cells) != self.width:
            return False
        cells_of = {name: cells[place].strip() for place, name, _ in self.columns}
        own_ids = self._own_ids
        return names_user(cells_of["user_guid"], own_ids=own_ids) and names_member(
            cells_of["member_guid"], own_ids=own_ids
        )


def _header(text: str) -> tuple[str, list[str]]:
    """The separator of a header, and the names of its columns."""
    names_by_separator: dict[str, list[str]] = {}
    csv_error = None
    for separator in _SEPARATORS:
        try:
            names_by_separator[separator] = [
                name.strip().lower() for name in next(csv.reader([text], delimiter=separator, strict=True), [])
            ]
        except csv.Error as error:
            csv_error = error
    # The separator that finds the most required columns, then the most columns.
    separator = max(
        names_by_separator,
        key=lambda s: (sum(name in names_by_separator[s] for name in _REQUIRED), len(names_by_separator[s])),
        default="",
    )
    names = names_by_separator.get(separator, [])
    if csv_error is not None and not set(_REQUIRED) <= set(names):
        raise UsageError(f"import: line 1: the header is no CSV: {csv_error}")
    if missing := [name for name in _REQUIRED if name not in names]:
        raise UsageError(f"import: line 1: the header lacks {' and '.join(missing)}; columns are {', '.join(COLUMNS)}")
    known_names = [name for name in names if name in COLUMNS]
    if len(set(known_names)) < len(known_names):
        raise UsageError("import: line 1: a column stands twice in the header")
    return separator, names


def skipped(name: str, what: str) -> Note:
    """The note that an unknown column or key is skipped, with the most similar known one."""
    near = get_close_matches(name, COLUMNS, n=1, cutoff=0.75)
    named = f"{what} {shown_name(name)}" if name else f"{what}, which has no name,"
    return Note(f"{named} is none of ours and is skipped" + (f"; is {near[0]} meant?" if near else ""))
