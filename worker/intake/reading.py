"""Reading a file, whatever it is: CSV or JSON."""

from collections.abc import Iterator
from pathlib import Path

from worker.intake.csv_rows import CsvRows
from worker.intake.items import Note, Problem, Row
from worker.intake.json_rows import json_rows
from worker.intake.lines import Lines, opened


def read(path: Path) -> Iterator[Row | Problem | Note]:
    """The rows of a file and the problems in it, in order. Raises :class:`UsageError` if it is no such file at all."""
    with opened(path) as lines:
        if is_json(path, lines):
            yield from json_rows(lines)
            return
        rows = CsvRows(lines)
        yield from rows.notes
        while True:
            before = rows.line
            yield from rows.rows(1_000)
            if rows.line == before:
                return


def is_json(path: Path, lines: Lines) -> bool:
    """Whether it is JSON by its name, or by what it begins with."""
    return path.suffix.lower() in {".jsonl", ".ndjson", ".json"} or lines.start() in {"{", "["}
