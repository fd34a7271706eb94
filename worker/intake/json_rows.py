"""Reads JSON: either JSON Lines, one object a line, or an array of objects over any number of lines."""

import json
import re
from collections.abc import Iterator
from typing import Any

from worker.intake.cells import COLUMNS, row_of
from worker.intake.csv_rows import skipped
from worker.intake.items import Note, Problem, Row
from worker.intake.lines import Lines, is_text

#: The most unknown keys that are named.
_NAMED = 20
#: The most lines of one object of an array.
_LONGEST_OBJECT = 1_000

_decode = json.JSONDecoder().raw_decode
_BETWEEN = re.compile(r"[\s,]*")


def json_rows(lines: Lines, *, own_ids: bool = False) -> Iterator[Row | Problem | Note]:
    """The rows of the objects. Each row has the columns whose keys its object has."""
    named: set[str] = set()
    for number, raw in objects(lines):
        if isinstance(raw, Problem):
            yield raw
        elif not isinstance(raw, dict):
            yield Problem(number, "is no JSON object")
        else:
            for key in sorted(raw.keys() - set(COLUMNS) - named):
                named.add(key)
                if len(named) <= _NAMED:
                    yield skipped(key, "key")
            yield row_of(number, {key: value for key, value in raw.items() if key in COLUMNS}, own_ids=own_ids)


def objects(lines: Lines) -> Iterator[tuple[int, Any]]:
    """The values of the text with their line numbers; a :class:`Problem` in place of a value that is not JSON."""
    return _array(lines) if _is_array(lines) else _by_line(lines)


def _is_array(lines: Lines) -> bool:
    """Whether the text is an array, or a series of objects over several lines each."""
    start = lines.start()
    first = lines.take(1)
    lines.give_back(first)
    return start == "[" or (start == "{" and bool(first) and first[0].strip() == "{")


def _by_line(lines: Lines) -> Iterator[tuple[int, Any]]:
    number = 0
    while text := "".join(lines.take(1)):
        number += 1
        if not text.strip():
            continue
        if not is_text(text):
            yield number, Problem(number, "holds bytes that are not UTF-8")
            continue
        try:
            yield number, json.loads(text)
        except (ValueError, RecursionError):
            yield number, Problem(number, "is no JSON")


def _array(lines: Lines) -> Iterator[tuple[int, Any]]:
    """The values of an array, or of a series of objects, with their line numbers. After a bad value, reading continues at the next ``{``.

    An array that is never closed was cut off, so the rows after it are missing: that is a problem of its own. Text after the closing
    bracket is ignored.
    """
    text, at, number, counted = "", 0, 1, 0
    is_array = lines.start() == "["
    first, closed = is_array, False
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # the pattern also matches the empty text
        number += text.count("\n", counted, at)
        counted = at
        if at == len(text):
            text, at, counted = "".join(lines.take(1)), 0, 0
            if not text:
                if is_array and not closed:
                    yield number, Problem(number, "the array is not closed: the file is cut off, and rows are missing")
                return
            continue
        if closed:
            yield number, Problem(number, "stands after the end of the array, and was not read, nor what follows")
            return
        if first:  # the opening bracket
            first, at = False, at + 1
            continue
        if text[at] == "]" and is_array:
            closed, at = True, at + 1
            continue
        value, end, text, at = _value(lines, text, at)
        counted = min(counted, at)
        written = text[at : end or None]
        if isinstance(value, Problem):
            yield number, Problem(number, value.text)
        elif not is_text(written):
            yield number, Problem(number, "holds bytes that are not UTF-8")
        else:
            yield number, value
        at = end


def _value(lines: Lines, text: str, at: int) -> tuple[Any, int, str, int]:
    """The value at ``at``: the value, its end, the text and the value's place in it. Text and place change if more lines are taken."""
    lines_taken = 0
    while True:
        try:
            value, end = _decode(text, at)
        except json.JSONDecodeError as error:
            # A value that is incomplete at the end of the text continues in the next line.
            if error.pos >= len(text.rstrip()) and lines_taken < _LONGEST_OBJECT and (next_line := lines.take(1)):
                text, at = text[at:] + next_line[0], 0
                lines_taken += 1
                continue
            following = text.find("{", max(error.pos, at + 1))
            return Problem(0, "is no JSON"), following if following >= 0 else len(text), text, at
        except (ValueError, RecursionError):
            following = text.find("{", at + 1)
            return Problem(0, "is no JSON"), following if following >= 0 else len(text), text, at
        return value, end, text, at
