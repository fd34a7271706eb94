"""Loads the settings. One error line names every problem, and never quotes a secret's value."""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from worker.errors import SettingsError
from worker.settings.env_file import misspelt_names, read_env_file
from worker.settings.fields import Settings


def load_settings(**overrides: Any) -> Settings:
    """Settings from ``overrides``, the environment and ``.env``; raises :class:`SettingsError` with one line for all problems.

    Names that look like a misspelt setting are reported on stderr, once a process.
    """
    for line in misspelt(overrides.get("_env_file", Settings.model_config.get("env_file"))):
        if line not in _warned:
            _warned.add(line)
            sys.stderr.write(f"settings: warning: {line}\n")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("settings: " + "; ".join(_problem(item) for item in error.errors())) from None


#: The warnings that this process has printed.
_warned: set[str] = set()


def misspelt(file: Any = ".env") -> list[str]:
    """A line for each name in ``file`` or the environment that is no setting but close to one."""
    in_file = read_env_file(Path(str(file))) if file is not None else {}
    return misspelt_names(Settings.model_fields, in_file, os.environ)


@cache
def settings() -> Settings:
    """The process's settings, loaded once."""
    return load_settings()


def _problem(item: Any) -> str:
    name = str(item["loc"][0]).upper() if item["loc"] else ""
    if item["type"] == "missing":
        return f"{name} is missing; set it in the environment or in .env (`reconnect init` writes one)"
    text = str(item["msg"]).removeprefix("Value error, ")
    if text == "is missing":
        return _problem(item | {"type": "missing"})
    if not name:  # a problem that concerns several settings names them in its text
        return text
    return f"{name} {text}" if text.startswith("is missing") else f"{name}: {text}"
