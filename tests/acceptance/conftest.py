"""A machine for each test, and the functions that the tests use on it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.machine import Machine, cast_of, environment_for, get_json, wait_until
from worker.cli.processes import free_port


@pytest.fixture
def acceptance() -> Any:
    """Functions that several tests use."""
    return SimpleNamespace(wait_until=wait_until, free_port=free_port, get_json=get_json, cast_of=cast_of)


@pytest.fixture
def machine(tmp_path: Path, redis_url: str) -> Iterator[Machine]:
    """A machine with SQLite, a broker, and settings that send messages at once."""
    with ExitStack() as stack:
        yield Machine(tmp_path, environment_for(tmp_path, redis_url), stack)
