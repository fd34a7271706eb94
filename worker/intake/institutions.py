"""Reads the file of `reconnect institutions`: CSV or JSON, one institution a row, with ``institution_code`` and ``consent_days``."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worker.errors import UsageError
from worker.intake.cells import value_of
from worker.intake.items import Note, Problem, Row
from worker.intake.json_rows import objects
from worker.intake.lines import STDIN, Lines, is_text, opened
from worker.intake.reading import is_json
from worker.plain_text import shown_name, shown_value
from worker.policy.consents import LONGEST, SHORTEST, is_known

COLUMNS = ("institution_code", "consent_days")
_SEPARATORS = ",;\t|"
_DIGITS = re.compile(r"\d{1,9}")


def is_of_institutions(path: Path) -> bool:
    """Whether a file has these columns, and none of a member. ``False`` for a pipe or other file that cannot be read twice."""
    if path == STDIN or not path.is_file():
        return False
    with opened(path) as lines:
        if is_json(path, lines):
            first = next(objects(lines), (0, None))[1]
            names = set(first) if isinstance(first, dict) else set()
        else:
            names = set(_header("".join(lines.take(1)))[1])
    return "consent_days" in names and not names & {"member_guid", "user_guid"}


def read_institutions(path: Path) -> Iterator[Row | Problem | Note]:
    """The rows of a file and the problems in it, in order. Raises :class:`UsageError` if the file has no such columns."""
    with opened(path) as lines:
        yield from _of_json(lines) if is_json(path, lines) else _of_csv(lines)


def _of_csv(lines: Lines) -> Iterator[Row | Problem | Note]:
    header = "".join(lines.take(1))
    separator, names = _header(header)
    if missing := [name for name in COLUMNS if name not in names]:
        raise UsageError(
            f"institutions: line 1: the header lacks {' and '.join(missing)}; columns are {', '.join(COLUMNS)}"
        )
    for name in names:
        if name not in COLUMNS:
            yield Note(f"column {shown_name(name)} is none of ours and is skipped")
    number = 1
    while text := "".join(lines.take(1)):
        number += 1
        if not text.strip():
            continue
        if not is_text(text):
            yield Problem(number, "holds bytes that are not UTF-8")
            continue
        try:
            cells = next(csv.reader([text], delimiter=separator, strict=True), [])
        except csv.Error as error:
            yield Problem(number, f"is no CSV: {error}")
            continue
        if len(cells) != len(names):
            yield Problem(number, f"has {len(cells)} cells where the header has {len(names)}")
        else:
            yield _row(number, dict(zip(names, cells, strict=True)))


def _header(text: str) -> tuple[str, list[str]]:
    """The separator of a header, and the names of its columns."""
    names_by_separator = {}
    for separator in _SEPARATORS:
        try:
            cells = next(csv.reader([text.strip()], delimiter=separator, strict=True), [])
        except csv.Error:
            continue
        names_by_separator[separator] = [name.strip().lower() for name in cells]
    likeliest = max(
        names_by_separator,
        key=lambda separator: sum(name in COLUMNS for name in names_by_separator[separator]),
        default=",",
    )
    return likeliest, names_by_separator.get(likeliest, [])


def _of_json(lines: Lines) -> Iterator[Row | Problem | Note]:
    noted: set[str] = set()
    for number, raw in objects(lines):
        if isinstance(raw, Problem):
            yield raw
        elif not isinstance(raw, dict):
            yield Problem(number, "is no JSON object")
        else:
            for key in sorted(raw.keys() - set(COLUMNS) - noted):
                noted.add(key)
                yield Note(f"key {shown_name(key)} is none of ours and is skipped")
            yield _row(number, raw)


def _row(number: int, raw: Mapping[str, Any]) -> Row | Problem:
    try:
        code = value_of("institution_code", raw.get("institution_code"))
    except ValueError as error:
        return Problem(number, f"institution_code {error}")
    if code is None:
        return Problem(number, "institution_code is missing")
    try:
        days = _days(raw.get("consent_days"))
    except ValueError as error:
        return Problem(number, f"consent_days {error}")
    return Row(number, {"institution_code": code, "consent_days": days})


def _days(cell: object) -> int | None:
    """A number of days; ``None`` for an empty cell: unknown."""
    text = str(cell).strip() if isinstance(cell, str | int) and not isinstance(cell, bool) else None
    if cell is None or text == "":
        return None
    days = int(text) if text is not None and _DIGITS.fullmatch(text) else None
    if days is None or not is_known(days):
        raise ValueError(f"{shown_value(cell)} is no number of days from {SHORTEST} to {LONGEST}")
    return days
