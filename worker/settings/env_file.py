"""``.env``: reading it, quoting values for it, and finding misspelt names in it.

python-dotenv reads it, without interpolation: ``$`` in a password is a ``$``. A file with an error is refused as a whole. A Procfile
runner reads the same file by other rules and puts the result into our environment; see :func:`misread`.
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

#: The first bytes of a file that an editor on Windows saved as "Unicode".
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
#: A value that needs no quotes for any reader of ``.env``.
_BARE = re.compile(r"[\w./:@%+=,-]*", re.ASCII)
#: Prefixes of our settings: a name in ``.env`` that begins with one is meant as a setting.
_OURS = ("MX_", "SMTP_", "APNS_", "FCM_", "WEBPUSH_")
#: How similar (0 to 1) a name must be to a setting's name to be reported as misspelt.
_NEAR = 0.84


def read_env_file(path: Path) -> Values:
    """The values in a ``.env``, empty if there is no file. Raises :class:`SettingsError` if any part cannot be read."""
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
    """A value, quoted for ``.env`` so that python-dotenv, honcho, foreman, systemd and a shell all read the same.

    Raises ``ValueError`` for a value that they read differently: one with a line break, or with ``\\n`` or ``\\t``, which honcho turns
    into a line break or a tab.
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
    """The right values of the settings that honcho read from ``path`` wrongly.

    honcho sets every variable of ``.env`` in our environment, but removes spaces from a value without quotes: ``*/5 * * * *`` becomes
    ``*/5****``. If a variable equals honcho's wrong reading, the file's value is used instead.
    """
    try:
        from honcho.environ import parse
    except ImportError:  # it was installed elsewhere
        return {}
    text = _text(path)
    try:
        honcho_values = parse(text or "")
    except ValueError:  # an open quote; honcho itself would have failed on it
        return {}
    file_values = {} if text is None else _parsed(path, text)
    known = {name.upper() for name in names}
    return {
        name: value
        for name, value in file_values.items()
        if name.upper() in known and value is not None and os.environ.get(name) == honcho_values.get(name) != value
    }


def misspelt_names(known: Collection[str], in_file: Collection[str], environment: Collection[str]) -> list[str]:
    """A warning for each name that is no setting but probably a misspelt one.

    The environment holds variables of other programs. So a name from there is reported only if the similar setting is not set.
    """
    known = tuple(sorted(name.upper() for name in known))
    set_names = {name.upper() for name in (*in_file, *environment)}
    lines = []
    for name in sorted(set_names - set(known)):
        from_file = name in {other.upper() for other in in_file}
        prefix = next((ours for ours in _OURS if from_file and name.startswith(ours)), None)
        nearest = _nearest(name, known, _NEAR)
        if nearest is None and prefix == "SMTP_":
            nearest = "SMTP_URL"  # it contains host, port, user and password
        elif nearest is None and prefix:
            nearest = _nearest(name, tuple(other for other in known if other.startswith(prefix)), 0.0)
        if nearest is None or (not from_file and nearest in set_names):
            continue
        where = ".env" if from_file else "the environment"
        lines.append(f"{where}: {_printable(name)} is no setting; the nearest one is {nearest}")
    return lines


@lru_cache(maxsize=1024)
def _nearest(name: str, known: tuple[str, ...], cutoff: float) -> str | None:
    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else f"a name of {len(name)} characters"  # noqa: PLR2004
