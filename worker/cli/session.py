"""Shared by the commands: a runtime for one command, and functions that print."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from worker.plain_text import ISOLATES, plain
from worker.settings import Settings, load_settings
from worker.store.sql.database import Database, open_engine
from worker.telemetry.logs import configure_logs

if TYPE_CHECKING:  # imports MX's client, the channels and Celery, which takes half a second
    from worker.runtime import Runtime

T = TypeVar("T")


class PlainConsole(Console):
    """Prints every ``str`` literally, in tables too: no markup, no emoji, control characters escaped.

    So data, such as a bank's name, cannot change the output, and callers need not escape it. Style is given with :func:`styled`.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(_shown(text), **options)


#: Results go to stdout, remarks and progress to stderr.
out = PlainConsole()
aside = PlainConsole(stderr=True)

AsJson = typer.Option(False, "--json", help="Print the result as JSON.")


def run(job: Callable[["Runtime"], Coroutine[Any, Any, T]], settings: Settings | None = None) -> T:
    """Run a job with a runtime of its own."""
    loaded = settings or load_settings()
    configure_logs()

    async def with_runtime() -> T:
        from worker.app import app
        from worker.publishing import Waker
        from worker.runtime import Runtime

        runtime = Runtime(loaded, wake=Waker(app))
        try:
            return await job(runtime)
        finally:
            await runtime.close()

    return asyncio.run(with_runtime())


def run_on_database(job: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run a job that needs nothing but the database."""
    loaded = load_settings()
    configure_logs()

    async def with_database() -> T:
        database = Database(open_engine(loaded))
        try:
            return await job(database)
        finally:
            await database.close()

    return asyncio.run(with_database())


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line of parts; each is text, or text and its style."""
    return Text.assemble(
        *((_shown(part), "") if isinstance(part, str) else (_shown(part[0]), part[1]) for part in parts)
    )


def _shown(text: str) -> str:
    return plain(text, keep="\n" + ISOLATES)


def print_json(value: object) -> None:
    """Print one JSON document on stdout. Control characters in texts are written as JSON escapes, so a terminal does not obey them."""
    can_show = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, default=_as_json, ensure_ascii=not can_show, indent=2)
    if not text.isprintable():
        text = "".join(c if c in "\n" + ISOLATES or plain(c) == c else json.dumps(c)[1:-1] for c in text)
    typer.echo(text)


def _as_json(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def when(moment: datetime | None) -> str:
    """A moment for output, such as ``2026-11-26 17:10:20 UTC``; ``—`` for none."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "—"
