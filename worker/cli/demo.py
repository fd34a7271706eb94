"""`demo`: a sandbox bank, five hundred members, the whole job with real processes, a summary."""

import asyncio
import json
import os
import shutil
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from cryptography.fernet import Fernet
from rich.table import Table

from worker.cli.data import import_rows
from worker.cli.inspect import funnel_table
from worker.cli.processes import bundled_broker, flower_command, running, worker_command
from worker.cli.session import aside, out, run
from worker.cli.work import follow
from worker.errors import WorkerError
from worker.runtime import Runtime
from worker.sandbox.scenario import KINDS, Player, cast, write_import, write_population
from worker.settings import Settings, load_settings
from worker.stages.sweep import sweep
from worker.store import schema
from worker.store.reports import ReportStore

#: The work itself takes seconds; what takes longer than this has gone wrong.
_PATIENCE = 90.0


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    *,
    members: int = typer.Option(500, "--members", min=60, max=20_000, help="How many."),
    folder: Path = typer.Option(Path("demo"), "--dir", help="Where database, mails and logs are put; emptied first."),
    stay: bool = typer.Option(False, "--stay", help="Keep everything running afterwards, with Flower, until Ctrl-C."),
    flower_port: int = typer.Option(5555, "--flower-port", help="With --stay: where Flower listens."),
) -> None:
    """The whole job against a sandbox bank; exit 0 only if every member ended as it must."""
    began = time.monotonic()
    folder = folder.resolve()
    _empty(folder)
    players = cast(members)
    write_population(players, folder / "population.jsonl")
    write_import(players, folder / "members.csv", datetime.now(UTC))
    with ExitStack() as stack:
        stack.enter_context(_own_settings())
        broker = stack.enter_context(bundled_broker())
        bank = _start_bank(stack, folder)
        environment = _environment(folder, broker, bank)
        os.environ.update(environment)
        settings = load_settings(_env_file=None)
        schema.migrate(settings)
        children = max(os.cpu_count() or 1, 2)
        stack.enter_context(running(worker_command(children), folder=folder, log="worker.log"))
        if stay:
            command = flower_command(flower_port)
            stack.enter_context(running(command, folder=folder, log="flower.log", kill=True))
        aside.print(
            f"{len(players)} members at {len({p.institution_code for p in players})} banks, {children} workers, SQLite, Valkey."
        )
        found = run(lambda runtime: _work(runtime, folder), settings)
        wrong = _summary(players, found, _mailbox(bank))
        _where_to_look(folder, bank, flower_port if stay else None)
        out.print(f"Done in {time.monotonic() - began:.1f} s.")
        if stay:
            _until_interrupted()
    if wrong:
        raise WorkerError(
            f"demo: {wrong} of {len(players)} members did not end as they must; see {folder.name}/worker.log"
        )


@contextmanager
def _own_settings() -> Iterator[None]:
    """The demonstration goes by its own settings alone, and leaves the caller's as they were."""
    before = dict(os.environ)
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _empty(folder: Path) -> None:
    """Empty a folder of an earlier demonstration; never one that holds anything else."""
    marker = folder / ".reconnect-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise WorkerError(f"demo: {folder.name}/ holds other things; choose another with --dir")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def _start_bank(stack: ExitStack, folder: Path) -> dict[str, str]:
    ready = folder / "sandbox.json"
    command = [sys.executable, "-m", "worker.sandbox", "--population", str(folder / "population.jsonl")]
    command += ["--mail-dir", str(folder / "mails"), "--latency", "0.05", "--ready-file", str(ready)]
    process = stack.enter_context(running(command, folder=folder, log="sandbox.log", kill=True))
    deadline = time.monotonic() + 20
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise WorkerError(f"demo: the sandbox does not start; see {folder.name}/sandbox.log")
        time.sleep(0.05)
    addresses: dict[str, str] = json.loads(ready.read_text(encoding="utf-8"))
    return addresses


def _environment(folder: Path, broker: str, bank: dict[str, str]) -> dict[str, str]:
    return {
        "DATABASE_URL": f"sqlite:///{folder / 'reconnect.db'}",
        "REDIS_URL": broker,
        "MX_BASE_URL": bank["base_url"],
        "MX_API_KEY": "sandbox-api-key",
        "MX_CLIENT_ID": "sandbox-client-id",
        "URI_KEYS": Fernet.generate_key().decode(),
        "SMTP_URL": bank["smtp_url"],
        "EMAIL_FROM": "Ledgerly <no-reply@ledgerly.example>",
        "EMAIL_REPLY_TO": "help@ledgerly.example",
        # Nobody waits for a demonstration until the morning.
        "NOTIFY_AFTER": "0",
        "QUIET_HOURS": "",
    }


async def _work(runtime: Runtime, folder: Path) -> dict[str, Any]:
    taken, refused = await import_rows(runtime, folder / "members.csv")
    aside.print(f"Imported {taken} members" + (f", refused {refused}." if refused else "."))
    report = await sweep(runtime)
    aside.print(f"Swept: {report.summary if report else 'nothing'}.")
    await follow(runtime, give_up_after=_PATIENCE)
    reports = ReportStore(runtime.database)
    outcomes = [{"state": s, "outcome": o, "count": n} for s, o, n in await reports.outcomes()]
    found = {"states": await reports.states(), "outcomes": outcomes, **await reports.funnel()}
    again = await sweep(runtime)  # may wake a worker for a retry whose time has come, and does nothing else
    aside.print(f"Swept again: opened {again.opened if again else 0}.")
    return found


def _mailbox(bank: dict[str, str]) -> Counter[str]:
    """How many mails really arrived for each address."""
    with urllib.request.urlopen(f"{bank['base_url']}/sandbox/mail.json?mails=false", timeout=10) as answer:  # noqa: S310 - loopback
        return Counter(json.load(answer)["recipients"])


def _summary(players: list[Player], found: dict[str, Any], mailbox: Counter[str]) -> int:
    """Print what became of whom; returns how many did not end as they must."""
    table = Table(
        "kind", "members", "must end", "did", "mails a user", title="What became of whom", title_justify="left"
    )
    wrong = 0
    for kind in KINDS:
        those = [player for player in players if player.kind is kind]
        ended = Counter(found["states"].get(player.member_guid) for player in those)
        mails = Counter(mailbox[email] for email in {player.email or "" for player in those})
        bad = sum(n for state, n in ended.items() if state != kind.ends) or sum(
            n for k, n in mails.items() if k != kind.mails
        )
        wrong += bad
        did = ", ".join(f"{n} {state or 'left alone'}" for state, n in ended.most_common())
        told = ", ".join(str(n) for n in sorted(mails))
        mark = "[red]" if bad else "[green]"
        table.add_row(kind.name, str(len(those)), kind.ends or "left alone", f"{mark}{did}[/]", told)
    out.print(table)
    out.print(funnel_table(found))
    return wrong


def _where_to_look(folder: Path, bank: dict[str, str], flower_port: int | None) -> None:
    shown = os.path.relpath(folder)
    mails = sum(1 for _ in (folder / "mails").glob("*.eml"))
    out.print(f"{mails} mails lie in {shown}/mails (.eml); logs and database lie in {shown}.")
    if flower_port is None:
        out.print(
            "Flower: `make demo ARGS=--stay` keeps everything running, with Flower and the mails in your browser."
        )
    else:
        out.print(f"Flower: http://127.0.0.1:{flower_port}/   Mails: {bank['mail_page']}   Stop with Ctrl-C.")


def _until_interrupted() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    try:
        asyncio.run(wait())
    except KeyboardInterrupt:
        return
