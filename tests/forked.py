"""Runs `python -m …` in processes that are forked from one that has imported everything already.

Starting Python and importing what a command needs takes ten times as long as most commands, and a third of the time of many tests that
start a worker. Making and compiling the SQL statements takes most of the rest, in a sweep and when a child starts. So the process that is
forked has done a small run on its own database before. A forked process is otherwise like a fresh one: it has its own folder, environment,
standard streams and exit code, and can be killed. Modules that read settings at import are not imported before the fork. Tests of the
start itself use a fresh process.
"""

import asyncio
import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

#: Imported before the forks: what the commands import.
_MODULES = (
    "aiosqlite", "psycopg", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.aiosqlite", "rich.progress",
    "rich.table", "alembic.command", "celery.app.control", "kombu.transport.redis", "worker.channels.email.channel",
    "worker.publishing", "worker.sandbox.scenario", "worker.store.sql.schema", "worker.stages.sweep", "worker.stages.explain",
    "celery.bin.worker", "celery.bin.beat", "celery.apps.worker", "celery.apps.beat", "celery.concurrency.prefork", "celery.worker.consumer",
    "celery.worker.strategy", "celery.app.amqp", "celery.app.log", "celery.events", "worker.runtime", "worker.schedules",
    "worker.channels.registry", "worker.endpoint", "worker.telemetry.logs", "worker.broker_transport", "worker.consumer", "worker.restarting",
    "worker.stages.deliver", "worker.stages.fetch", "worker.stages.verify", "worker.stages.hints", "worker.stages.events",
    "worker.stages.sync", "worker.sandbox.server", "worker.sandbox.webhooks", "worker.web.app", "worker.web.serve",
)  # fmt: skip


class Process:
    """A forked process, with those methods of :class:`subprocess.Popen` that tests use."""

    def __init__(
        self, module: str, arguments: Sequence[str], folder: Path, environment: dict[str, str], *fds: int
    ) -> None:
        """``fds``: standard output and standard error. The process leads its own session."""
        self.args = [sys.executable, "-m", module, *arguments]
        self.returncode: int | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_server())
        order = json.dumps([module, list(arguments), str(folder), environment]).encode()
        socket.send_fds(self._server, [len(order).to_bytes(4, "big")], list(fds))
        self._server.sendall(order)
        self.pid = int.from_bytes(_read(self._server, 4), "big")
        self._ending = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; raises :class:`subprocess.TimeoutExpired` after ``timeout`` seconds."""
        if not self._ending.acquire(timeout=-1 if timeout is None else timeout):  # another thread waits
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        try:
            if self.returncode is None:
                if not select.select([self._server], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.returncode = int.from_bytes(_read(self._server, 4), "big", signed=True)
                self._server.close()
            return self.returncode
        finally:
            self._ending.release()

    def poll(self) -> int | None:
        """Its exit code; ``None`` while it runs."""
        if self.returncode is None and self._ending.acquire(blocking=False):
            self._ending.release()
            with suppress(subprocess.TimeoutExpired):
                self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process is known to have ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(
    arguments: list[str], *, module: str = "worker", folder: Path, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run ``reconnect …``, or another module, to its end; raises :class:`subprocess.TimeoutExpired` and kills it after ``timeout`` seconds."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Process(module, arguments, folder, environment, out.fileno(), err.fileno())
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return subprocess.CompletedProcess(arguments, status, *texts)


def _read(connection: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        if not (more := connection.recv(n - len(data))):
            raise EOFError("the process that forks commands is gone")
        data += more
    return data


@cache
def _server() -> str:
    """The path of the socket of the process that forks. The first command starts that process, and it ends together with this one."""
    address = f"{tempfile.mkdtemp(prefix='forked-')}/socket"
    command = [sys.executable, "-m", "tests.forked", address]
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    root = str(Path(__file__).resolve().parents[1])
    # It ends when its standard input is closed, which happens however this process ends.
    process = subprocess.Popen(
        command,
        cwd=root,
        env=bare | {"PYTHONPATH": root, "COLUMNS": "200"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    atexit.register(process.communicate, timeout=10)  # closes its standard input, and waits for it
    return address


def _serve(address: str) -> None:
    from worker import cli

    for module in (*_MODULES, *(f"worker.cli.{name}" for name in cli._MODULES)):
        import_module(module)
    _make_statements()
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for the processes that serve the connections
    nobody = os.open(os.devnull, os.O_RDWR)
    os.write(1, b"ready\n")
    os.dup2(nobody, 1)
    assert threading.active_count() == 1
    while True:
        readable, _, _ = select.select([listener, 0], [], [])
        if 0 in readable:
            shutil.rmtree(Path(address).parent)
            return  # the process that started this one has ended
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            os.dup2(nobody, 0)
            _attend(connection)
        connection.close()


def _make_statements() -> None:
    """Sweep a database of one member, so that forked processes need not make the SQL statements again, nor compile those of SQLite."""
    from tests.compiled import StatementCache
    from worker.store.sql import database
    from worker.store.sql.rows import rows_of

    cache, create = StatementCache(), database.create_async_engine
    database.create_async_engine = lambda *args, **options: create(
        *args, execution_options={"compiled_cache": cache}, **options
    )
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        asyncio.run(_run_once(folder))
    for kind, *given in list(rows_of(is_sqlite=True)._parts):
        rows_of(is_sqlite=False).part(kind, **dict(given))


async def _run_once(folder: str) -> None:
    from cryptography.fernet import Fernet
    from sqlalchemy import text

    from worker.runtime import Runtime
    from worker.settings import load_settings
    from worker.stages import deliver, fetch, hints, sweep, verify
    from worker.store.queries.link_page import LinkPageStore
    from worker.store.sql import schema
    from worker.store.transactions.click import ClickStore

    values: dict[str, Any] = {"database_url": f"sqlite:///{folder}/made.db", "mx_base_url": "http://127.0.0.1:9"}
    values |= {"mx_api_key": "key", "mx_client_id": "id", "uri_keys": Fernet.generate_key().decode()}
    settings = load_settings(_env_file=None, **values)
    schema.migrate(settings)
    runtime = Runtime(settings, wake=_nobody)
    for kind in (ClickStore, LinkPageStore):
        runtime.database.store(kind)
    async with runtime.database.engine.begin() as connection:
        await connection.execute(text("INSERT INTO users (user_guid) VALUES ('USR-1')"))
        await connection.execute(
            text("INSERT INTO members (member_guid, user_guid, connection_status) VALUES ('MBR-1', 'USR-1', 'DENIED')")
        )
    for stage in (sweep.sweep, fetch.fetch, deliver.deliver, verify.verify, hints.hints, sweep.sweep):
        await stage(runtime)
    await runtime.close()


async def _nobody(_stage: str, n: int) -> int:
    return n


def _attend(connection: socket.socket) -> None:
    """Fork the command; send back its process id at once, and its exit code when it ends."""
    length, fds, _, _ = socket.recv_fds(connection, 4, 2)
    module, arguments, folder, environment = json.loads(_read(connection, int.from_bytes(length, "big")))
    pid = os.fork()
    if pid == 0:
        connection.close()
        os.setsid()
        for fd, target in zip(fds, (1, 2), strict=True):
            os.dup2(fd, target)
            os.close(fd)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [module, *arguments]
        _command(module)
    for fd in fds:
        os.close(fd)
    connection.sendall(pid.to_bytes(4, "big"))
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    os._exit(0)


def _command(module: str) -> None:
    """Run a module as ``python -m module`` does, exit handlers included."""
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
