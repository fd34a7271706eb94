"""The ``reconnect`` command: exit 0 done, 1 failed, 2 wrong usage or settings; errors in one line on stderr."""

import sys

import typer

from worker import __version__
from worker.cli import data, demo, inspect, messages, running, setup, work
from worker.errors import WorkerError

app = typer.Typer(
    name="reconnect",
    help="Brings back customers whose bank revoked or expired the OAuth token behind their MX connection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(*, value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Say which version this is."
    ),
) -> None:
    pass


for module in (setup, data, work, inspect, messages, running, demo):
    module.add_to(app)


def main() -> None:
    """Run the command; what went wrong is one line, and the exit code says whose turn it is."""
    try:
        app()
    except WorkerError as error:
        sys.stderr.write(f"reconnect: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
