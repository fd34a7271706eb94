"""The lines of an import, as text, from a file or from standard input.

A byte that is not UTF-8 becomes a lone surrogate, which :func:`is_text` finds. So only the row with that byte is refused.
"""

import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from worker.errors import UsageError

#: The name that stands for standard input.
STDIN = Path("-")
#: The first bytes of files that cannot be imported, and what such a file is.
_STARTS = {
    b"\xff\xfe": "UTF-16, not UTF-8 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8 text; save it as UTF-8",
    b"\x1f\x8b": "compressed; unpack it first",
    b"PK\x03\x04": "a workbook or an archive, no text; save it as CSV",
}


class Lines:
    """Lines with their line breaks. Lines that were taken can be given back."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self._given_back: list[str] = []

    def take(self, count: int) -> list[str]:
        """The next lines, as many as there are and at most ``count``."""
        if not self._given_back:
            return list(islice(self._text, count))
        lines, self._given_back = self._given_back[:count], self._given_back[count:]
        return lines + list(islice(self._text, count - len(lines)))

    def give_back(self, lines: list[str]) -> None:
        """Return lines, so that they are taken again next."""
        self._given_back = lines + self._given_back

    def start(self) -> str:
        """The first character that is not blank, or an empty text. Takes no line."""
        blank_lines: list[str] = []
        while (lines := self.take(1)) and not lines[0].strip():
            blank_lines += lines
        self.give_back(blank_lines + lines)
        return lines[0].lstrip()[:1] if lines else ""


@contextmanager
def opened(path: Path) -> Iterator[Lines]:
    """The lines of a file; raises :class:`UsageError` if it cannot be read or is not text."""
    name = display_name(path)
    try:
        with sys.stdin.buffer if path == STDIN else path.open("rb") as raw:
            start = raw.peek(4)[:4]  # type: ignore[union-attr]
            for first_bytes, description in _STARTS.items():
                if start.startswith(first_bytes):
                    raise UsageError(f"import: {name}: it is {description}")
            if b"\0" in start[:2]:
                raise UsageError(f"import: {name}: it is no UTF-8 text")
            yield Lines(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=""))
    except OSError as error:
        raise UsageError(f"import: {name}: {error.strerror or type(error).__name__}") from None


def display_name(path: Path) -> str:
    """The name of a file in messages."""
    return "standard input" if path == STDIN else path.name


def is_text(line: str) -> bool:
    """Whether the bytes of a line were UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True
