"""Reads a file row by row, whether CSV or JSON."""

from collections.abc import Iterator
from pathlib import Path

from worker.intake.csv_rows import CsvRows
from worker.intake.items import Note, Problem, Row
from worker.intake.json_rows import json_rows
from worker.intake.lines import Lines, opened


def read(path: Path) -> Iterator[Row | Problem | Note]:
    """The rows of a file and the problems in it, in order. Raises :class:`UsageError` if the file is neither CSV nor JSON."""
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
    """Whether the file is JSON, by its name or by its first character."""
    return path.suffix.lower() in {".jsonl", ".ndjson", ".json"} or lines.start() in {"{", "["}
