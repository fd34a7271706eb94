"""What the commands share: a runtime for one command, and ways to print."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

import typer
from rich.console import Console

from worker.logs import configure_logs
from worker.publishing import Waker
from worker.runtime import Runtime
from worker.settings import Settings, load_settings

T = TypeVar("T")

#: Results go to stdout, what is said beside them to stderr.
out = Console(highlight=False, soft_wrap=True)
aside = Console(stderr=True, highlight=False, soft_wrap=True)

AsJson = typer.Option(False, "--json", help="Print the result as JSON.")


def run(job: Callable[[Runtime], Coroutine[Any, Any, T]], settings: Settings | None = None) -> T:
    """Run a job with a runtime of its own."""
    loaded = settings or load_settings()
    configure_logs()

    async def with_runtime() -> T:
        from worker.app import app

        runtime = Runtime(loaded, wake=Waker(app))
        try:
            return await job(runtime)
        finally:
            await runtime.close()

    return asyncio.run(with_runtime())


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def when(moment: datetime | None) -> str:
    """A moment as a person reads it."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "—"
