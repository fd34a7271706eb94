"""The fast path of an import: reads a file column by column, 1,000 lines at a time.

Nearly every line of an import is good. If all lines of a block are good, their cells are read column by column. Any other block is read
by :mod:`worker.intake.csv_rows`. Only that module reports problems, so both paths read a row alike.

Why there are two readers: a million rows of 13 columns take 3.1 s of CPU column by column and 21.7 s row by row. COPY of the same file
takes 2.5 s with its server, and an import may take five times that. With the second reader alone, reading takes nine times as long as COPY.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from worker.intake.csv_rows import CsvRows
from worker.intake.items import Note, Problem, Row
from worker.intake.json_rows import json_rows
from worker.intake.lines import Lines, opened
from worker.intake.reading import is_json
from worker.mx.identifiers import MAX_LENGTH, MEMBER, OWN_ID, USER

#: Lines in a block. One bad line makes its whole block slow, so larger blocks would lose more.
_BLOCK = 1_000

_LINE_ENDS = ("\n", "\r")

Column = Sequence[Any]


@dataclass(slots=True)
class ColumnBatch:
    """Rows with the same columns, stored column by column, in the order of the file."""

    columns: Mapping[str, Column] = field(repr=False)  # addresses are among them

    def __len__(self) -> int:
        return len(self.columns["member_guid"])


def slices(path: Path, size: int, *, own_ids: bool = False) -> Iterator[ColumnBatch | Problem | Note]:
    """The rows of a file in batches of ``size`` to ``size`` + 1,000, and the problems in it.

    ``own_ids``: users and members may be named by own ids (``Settings.own_ids``). A batch is shorter if a row with other columns
    follows. Raises :class:`UsageError` if the file is neither CSV nor JSON.
    """
    with opened(path) as lines:
        gathered: dict[str, list[Any]] = {}
        for item in _by_row(json_rows(lines, own_ids=own_ids)) if is_json(path, lines) else _csv(lines, own_ids):
            if not isinstance(item, ColumnBatch):
                yield item
                continue
            if gathered and (item.columns.keys() != gathered.keys() or len(gathered["member_guid"]) >= size):
                yield ColumnBatch(gathered)
                gathered = {}
            for name, column in item.columns.items():
                gathered.setdefault(name, []).extend(column)
        if gathered:
            yield ColumnBatch(gathered)


def _csv(lines: Lines, own_ids: bool) -> Iterator[ColumnBatch | Problem | Note]:
    rows = CsvRows(lines, own_ids=own_ids)
    yield from rows.notes
    readers = [(place, name, _column_reader(name, read, own_ids)) for place, name, read in rows.columns]
    while block := lines.take(_BLOCK):
        batch = _batch(block, rows, readers)
        if batch is not None:
            rows.line += len(block)
            yield batch
        else:
            lines.give_back(block)
            yield from _by_row(rows.rows(len(block)))


def _by_row(items: Iterable[Row | Problem | Note]) -> Iterator[ColumnBatch | Problem | Note]:
    """Consecutive rows with the same columns, as batches; problems and notes pass through."""
    for columns, alike in groupby(items, key=lambda item: item.values.keys() if isinstance(item, Row) else None):
        if columns is None:
            yield from (item for item in alike if not isinstance(item, Row))
            continue
        while rows := [item.values for item in islice(alike, _BLOCK) if isinstance(item, Row)]:
            yield ColumnBatch({name: [values[name] for values in rows] for name in columns})


def _batch(
    block: list[str], rows: CsvRows, readers: Sequence[tuple[int, str, Callable[[Sequence[str]], Column]]]
) -> ColumnBatch | None:
    """The block's rows; ``None`` if any line or cell is bad."""
    try:
        cells = _cells(block, rows.width, rows.separator)
        columns = {name: read(cells[place]) for place, name, read in readers}
    except (ValueError, csv.Error):
        return None
    if "device_kind" in columns or "device_address" in columns:
        nothing = [None] * len(block)
        pairs = zip(columns.get("device_kind", nothing), columns.get("device_address", nothing), strict=True)
        if any((kind is None) != (address is None) for kind, address in pairs):
            return None
    return ColumnBatch(columns)


def _cells(block: list[str], width: int, separator: str) -> list[Sequence[str]]:
    """The cells of a block, column by column; ``ValueError`` unless every line has ``width`` cells and is UTF-8."""
    text = separator.join(block)
    text.encode()
    if '"' in text:
        rows = list(csv.reader(block, delimiter=separator, strict=True))
        if len(rows) != len(block):  # a quoted cell contains a line break
            raise ValueError
        cells = list(zip(*rows, strict=True))
        if len(cells) != width:
            raise ValueError
        return list(cells)
    flat = text.split(separator)
    if len(flat) != len(block) * width:
        raise ValueError
    # Each line has exactly one line break, at the end of its last cell. If every ``width``-th cell ends with one, all lines have
    # ``width`` cells.
    last = "".join(flat[width - 1 :: width])
    if not last.endswith(_LINE_ENDS):
        last += "\n"
    if last.count("\n") != len(block):
        raise ValueError
    return [*(flat[at::width] for at in range(width - 1)), last.replace("\r\n", "\n").split("\n")[:-1]]


def _column_reader(name: str, read: Callable[[str], Any], own_ids: bool) -> Callable[[Sequence[str]], Column]:
    """A function that reads all cells of a column at once; it raises ``ValueError`` if one of them may be bad."""
    form = (_CELL_FORMS | _OWN_ID_FORMS if own_ids else _CELL_FORMS).get(name)
    if form is None:
        return lambda cells: list(map(read, cells))
    pattern, longest = form
    all_of_them = re.compile(rf"(?:(?:{pattern})\n)*+")

    def read_all(cells: Sequence[str]) -> Column:
        text = "\n".join(cells) + "\n"
        if max(map(len, cells)) > longest or not all_of_them.fullmatch(text):
            raise ValueError
        if name == "email" and not "".join(cells).isprintable():
            raise ValueError
        return cells if "" not in cells else [cell or None for cell in cells]

    return read_all


#: The usual form of an address, a subset of what ``channels/email/addresses.py`` accepts. A local part may have 64 octets, and a
#: character outside ASCII takes up to four, so such a local part may have 16 characters.
_LETTER = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\ud7ff\ue000-\U0010ffff-]"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_MAIL = rf"(?:(?=[!-~]{{1,64}}@|[^@\n]{{1,16}}@){_LETTER}+(?:\.{_LETTER}+)*@{_LABEL}(?:\.{_LABEL})*)?"

#: Columns whose cells hardly ever repeat: the pattern of a cell, without blanks around it, and its greatest length.
_CELL_FORMS: dict[str, tuple[str, int]] = {
    "user_guid": (USER.pattern, MAX_LENGTH),
    "member_guid": (MEMBER.pattern, MAX_LENGTH),
    "email": (_MAIL, 200),
}
#: The same if users and members may be named by own ids.
_OWN_ID_FORMS: dict[str, tuple[str, int]] = {
    "user_guid": (f"(?!MBR-){OWN_ID.pattern}", MAX_LENGTH),
    "member_guid": (f"(?!USR-){OWN_ID.pattern}", MAX_LENGTH),
}
