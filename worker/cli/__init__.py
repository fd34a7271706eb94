"""The ``reconnect`` command: exit 0 done, 1 failed, 2 wrong usage or settings; errors in one line on stderr."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

import typer

from worker import __version__
from worker.errors import UsageError, WorkerError
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
    # A character that the terminal's encoding lacks is printed as an escape, so that printing cannot fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            _check_arguments(sys.argv[1:])
            module = _MODULE_OF.get(sys.argv[1]) if len(sys.argv) > 1 else None
            _application([module] if module else _MODULES)()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a failing write must raise here, not print a traceback when the interpreter ends
    except WorkerError as error:
        _end(str(error), error.exit_code)
    except BrokenPipeError:  # the program that reads our output has ended
        _end(None, 1)
    except OSError as error:
        _end(f"input or output failed: {error.strerror or type(error).__name__}", 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _check_arguments(arguments: Iterable[str]) -> None:
    """Raise :class:`UsageError` for an argument with bytes that are not UTF-8: it can be neither printed nor stored. File names may have them."""
    for place, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            if not os.path.lexists(argument):
                raise UsageError(f"argument {place} holds bytes that are not UTF-8, and is no file") from None


def _end(why: str | None, code: int) -> NoReturn:
    """End with an error in one line. Drop output that cannot be written; otherwise the interpreter would try to write it again at its end."""
    with suppress(OSError, ValueError):
        if why is not None:
            sys.stderr.write(f"reconnect: {plain(why, keep='')}\n")
            sys.stderr.flush()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
