"""`up`, `web` and `sandbox`: the whole system on one machine, its web process alone, or an MX look-alike to develop against."""

import asyncio
import logging
import os
import shlex
import signal
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from worker.cli.processes import (
    STOP_PATIENCE,
    beat_command,
    bundled_broker,
    flower_command,
    restarted,
    web_command,
    worker_command,
)
from worker.cli.session import out
from worker.errors import SettingsError
from worker.settings import load_settings
from worker.settings.env_file import quoted
from worker.telemetry.logs import configure_logs


def add_to(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(web)
    app.command()(sandbox)


def up(
    *,
    children: int = typer.Option(os.cpu_count() or 1, "--children", help="Worker processes."),
    flower_port: int = typer.Option(5555, "--flower-port", help="Where Flower listens, on loopback."),
) -> None:
    """The whole system on one machine: broker if none is configured, worker, beat, web if PUBLIC_BASE_URL is set, Flower."""
    from honcho import manager as honcho

    from worker.store.sql import schema

    settings = load_settings()
    configure_logs()
    honcho.KILL_WAIT = STOP_PATIENCE  # a worker needs this time to end its runs
    manager: Any = honcho.Manager()
    with ExitStack() as stack:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if "redis_url" not in settings.model_fields_set:
            environment["REDIS_URL"] = stack.enter_context(bundled_broker())
            out.print("REDIS_URL is not set: started a Valkey for as long as this runs.")
        schema.migrate(settings)
        commands = {
            "worker": worker_command(children),
            "beat": beat_command(),
            "flower": flower_command(flower_port),
        }
        if settings.public_base_url is not None:
            commands["web"] = web_command()
            out.print(f"Web: {settings.public_base_url}, served on {settings.web_listen}.")
        for name, command in commands.items():
            manager.add_process(name, f"exec {shlex.join(restarted(command))}", env=environment)
        out.print(f"Flower: http://127.0.0.1:{flower_port}/   Stop with Ctrl-C.")
        manager.loop()
    sys.exit(0 if manager.returncode in {0, 130, 143} else 1)


def web(
    *,
    optional: bool = typer.Option(
        False, "--optional", help="Without PUBLIC_BASE_URL, wait for SIGTERM and serve nothing, instead of an error."
    ),
) -> None:
    """The web process on WEB_LISTEN: the links in messages, unsubscribe, the end of OAuth. Several may share the port."""
    settings = load_settings()
    configure_logs()
    if settings.public_base_url is None:
        if not optional:
            raise SettingsError(
                "settings: PUBLIC_BASE_URL is missing: without it messages carry MX's own links, and there is nothing to serve"
            )
        ending = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # so that sigwait gets them
        signal.sigwait(ending)
        return
    logging.getLogger("alembic").setLevel(logging.WARNING)  # /readyz asks it for the schema every few seconds
    from worker.app import app
    from worker.publishing import Waker
    from worker.web.serve import serve

    asyncio.run(serve(settings, wake=Waker(app)))


def sandbox(
    *,
    population: Path | None = typer.Option(
        None, "--population", help="Members, as JSON Lines; default: those of `demo`, with a file to import."
    ),
    mail_dir: Path = typer.Option(Path("mails"), "--mail-dir", help="Where mails are kept."),
    http_port: int = typer.Option(8090, "--http-port", help="The bank; 0 for any free port."),
    smtp_port: int = typer.Option(8025, "--smtp-port", help="The mail server; 0 for any free port."),
    latency: float = typer.Option(0.05, "--latency", help="Seconds that each of the bank's answers takes."),
    phones: Path | None = typer.Option(
        None, "--phones", help="Simulate phones and browsers too; the keys for FCM, APNs and Web Push are written here."
    ),
    web: str | None = typer.Option(
        None,
        "--web",
        help="Where `reconnect web` listens, such as http://127.0.0.1:8080: open a public address for it.",
    ),
    front_port: int = typer.Option(8091, "--front-port", help="With --web: that address; 0 for any free port."),
) -> None:
    """An MX look-alike and a mail server; with --phones, phones and browsers too."""
    mail_dir.mkdir(parents=True, exist_ok=True)
    from worker.sandbox.server import (
        DEFAULT_API_KEY,
        DEFAULT_CLIENT_ID,
        DEFAULT_WEBHOOK_AUTH,
        Addresses,
        SandboxConfig,
        serve,
    )

    if population is None:
        population = _write_example(mail_dir.parent)
    config = SandboxConfig(
        population=population,
        mail_dir=mail_dir,
        http_port=http_port,
        smtp_port=smtp_port,
        latency=latency,
        phones=phones,
        web=web,
        front_port=front_port,
        webhook_auth=None if web is None else DEFAULT_WEBHOOK_AUTH,
    )

    def ready(addresses: Addresses) -> None:
        out.print("Point the worker here:")
        settings = {
            "MX_BASE_URL": addresses.base_url,
            "MX_API_KEY": DEFAULT_API_KEY,
            "MX_CLIENT_ID": DEFAULT_CLIENT_ID,
            "SMTP_URL": addresses.smtp_url,
            "EMAIL_FROM": "Sandbox <no-reply@sandbox.example>",
            **addresses.push,
            **({"PUBLIC_BASE_URL": addresses.public_base_url} if addresses.public_base_url else {}),
            **({"MX_WEBHOOK_AUTH": DEFAULT_WEBHOOK_AUTH} if addresses.public_base_url else {}),
        }
        for name, value in settings.items():
            out.print(f"  {name}={quoted(value)}")
        out.print("It speaks Atrium and Platform: set MX_API=platform for the latter.")
        out.print(f"Mails: {addresses.mail_page}   Stop with Ctrl-C.")

    asyncio.run(serve(config, ready))


def _write_example(folder: Path) -> Path:
    """Write the members of `demo` as a population file and as a file for `reconnect import`; returns the first."""
    from worker.sandbox.scenario import make_demo_members, write_import, write_population

    demo_members, population, members = (
        make_demo_members(500),
        folder / "sandbox-population.jsonl",
        folder / "sandbox-members.csv",
    )
    write_population(demo_members, population)
    write_import(demo_members, members, datetime.now(UTC))
    out.print(f"Wrote {population} and, for `reconnect import`, {members}.")
    return population
