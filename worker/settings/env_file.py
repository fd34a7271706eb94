"""``.env``: read whole or not at all, written so that all who read it agree, and names in it that look like ours.

python-dotenv reads it for us, with nothing interpolated: ``$`` in a password is a ``$``. A Procfile runner reads the same file by rules
of its own and hands us the result in the environment; see :func:`misread`.
"""

import io
import os
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from worker.errors import SettingsError

Values = Mapping[str, str | None]

#: Bytes that a file begins with when an editor on Windows saved it as "Unicode".
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
#: A value that every reader takes as it is.
_BARE = re.compile(r"[\w./:@%+=,-]*", re.ASCII)
#: Beginnings of names that are nobody's but ours in our own file.
_OURS = ("MX_", "SMTP_", "APNS_", "FCM_", "WEBPUSH_")
_NEAR = 0.84


def read_env_file(path: Path) -> Values:
    """What a ``.env`` says; nothing if there is none. Raises :class:`SettingsError` where it cannot be read as a whole."""
    text = _text(path)
    return {} if text is None else _parsed(path, text)


def _text(path: Path) -> str | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise SettingsError(f"settings: {path}: it is a link to a file that is not there") from None
        return None
    except OSError as error:
        raise SettingsError(f"settings: {path}: cannot be read: {error.strerror or type(error).__name__}") from None
    if content.startswith(_UTF_16) or b"\0" in content:
        raise SettingsError(f"settings: {path}: is not UTF-8 text but looks like UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"settings: {path}: line {line} is not UTF-8 text; save the file as UTF-8") from None


def _parsed(path: Path, text: str) -> Values:
    from dotenv.parser import parse_stream

    values: dict[str, str | None] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            line = binding.original.line
            raise SettingsError(f"settings: {path}: line {line} is not NAME=value, or a quote in it is left open")
        if binding.key is not None:
            values[binding.key] = binding.value
    return values


def quoted(value: str) -> str:
    """A value as it is written into a ``.env``: python-dotenv, honcho, foreman, systemd and a shell read the same.

    Raises ``ValueError`` for what none of them agree on: line breaks, and a backslash before ``n`` or ``t``, in which honcho sees one.
    """
    if not value.isprintable() or re.search(r"\\[nt]", value):
        raise ValueError("cannot be written so that everybody reads the same")
    if _BARE.fullmatch(value):
        return value
    if "'" not in value and "\\" not in value:
        return f"'{value}'"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def under_honcho() -> bool:
    """Whether honcho started this process."""
    return "HONCHO_PROCESS_NAME" in os.environ


def misread(path: Path, names: Iterable[str]) -> Values:
    """What ``path`` says of the settings that honcho took from it and got wrong.

    honcho sets every variable of ``.env`` over those that there are, but joins the words of a value that is not quoted:
    ``*/5 * * * *`` arrives as ``*/5****``. Where a variable is what honcho makes of the file, the file itself is meant.
    """
    try:
        from honcho.environ import parse
    except ImportError:  # it was installed elsewhere
        return {}
    text = _text(path)
    try:
        theirs = parse(text or "")
    except ValueError:  # a quote left open; honcho itself would not have come so far
        return {}
    ours = {} if text is None else _parsed(path, text)
    known = {name.upper() for name in names}
    return {
        name: value
        for name, value in ours.items()
        if name.upper() in known and value is not None and os.environ.get(name) == theirs.get(name) != value
    }


def strangers(known: Collection[str], in_file: Collection[str], environment: Collection[str]) -> list[str]:
    """A line for each name that is no setting, but so near to one that it is likely to be meant.

    The environment belongs to everybody: there a name is near only if it is very like a setting that is not set.
    """
    known = tuple(sorted(name.upper() for name in known))
    given = {name.upper() for name in (*in_file, *environment)}
    lines = []
    for name in sorted(given - set(known)):
        from_file = name in {other.upper() for other in in_file}
        family = next((ours for ours in _OURS if from_file and name.startswith(ours)), None)
        meant = _nearest(name, known, _NEAR)
        if meant is None and family == "SMTP_":
            meant = "SMTP_URL"  # which holds host, port, user and password
        elif meant is None and family:
            meant = _nearest(name, tuple(other for other in known if other.startswith(family)), 0.0)
        if meant is None or (not from_file and meant in given):
            continue
        where = ".env" if from_file else "the environment"
        lines.append(f"{where}: {_printable(name)} is no setting; the nearest one is {meant}")
    return lines


@lru_cache(maxsize=1024)
def _nearest(name: str, known: tuple[str, ...], cutoff: float) -> str | None:
    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else f"a name of {len(name)} characters"  # noqa: PLR2004
