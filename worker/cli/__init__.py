"""The ``reconnect`` command: exit 0 done, 1 failed, 2 wrong usage or settings; errors in one line on stderr."""

import sys
from collections.abc import Iterable
from importlib import import_module
from io import TextIOWrapper

import typer

from worker import __version__
from worker.errors import WorkerError
from worker.plain_text import plain

#: Each module and the commands that it adds, in the order of `--help`.
_MODULES = {
    "setup": ("init", "migrate", "doctor", "rotate-keys"),
    "data": ("import", "institutions"),
    "syncing": ("sync",),
    "work": ("sweep", "pause", "resume", "retry"),
    "status": ("status",),
    "explain": ("explain",),
    "messages": ("preview", "bounces", "optout"),
    "linking": ("link",),
    "forgetting": ("forget",),
    "events": ("events",),
    "running": ("up", "web", "sandbox"),
    "demo": ("demo",),
}
_MODULE_OF = {command: module for module, commands in _MODULES.items() for command in commands}


def _application(modules: Iterable[str]) -> typer.Typer:
    app = typer.Typer(
        name="reconnect",
        help="Brings back customers whose bank revoked or expired the OAuth token behind their MX connection.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    for module in modules:
        import_module(f"{__name__}.{module}").add_to(app)
    return app


def _version(*, value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


def _options(
    *,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def __getattr__(name: str) -> typer.Typer:
    """``app``: all commands. It imports every command's module; :func:`main` imports only the module of the command given."""
    if name == "app":
        return _application(_MODULES)
    raise AttributeError(name)


def main() -> None:
    """Run the command. An error is one line on stderr; the exit code is the error's."""
    # A terminal whose encoding lacks a character shows its number instead: printing must not fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")
    module = _MODULE_OF.get(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        _application([module] if module else _MODULES)()
    except WorkerError as error:
        sys.stderr.write(f"reconnect: {plain(str(error), keep='')}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
