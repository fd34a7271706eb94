"""The worker that is measured: real Celery processes, started as the Procfile starts them, and their CPU time."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from cryptography.fernet import Fernet

from ops.bench.servers import environment

URI_KEY = Fernet.generate_key().decode()


def settings_of(*, database_url: str, redis_url: str, mx_url: str, smtp_port: int = 9, **more: Any) -> dict[str, str]:
    """The worker's environment: the defaults, except that messages are sent at once and at any hour."""
    given = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "MX_BASE_URL": mx_url,
        "MX_API_KEY": "bench-key",
        "MX_CLIENT_ID": "bench-client",
        "URI_KEYS": URI_KEY,
        "SMTP_URL": f"smtp://127.0.0.1:{smtp_port}?tls=none",
        "EMAIL_FROM": "Ledgerly <no-reply@ledgerly.example>",
        "NOTIFY_AFTER": "0",
        "QUIET_HOURS": "",
    }
    return given | {name.upper(): str(value) for name, value in more.items()}


def reconnect(settings: Mapping[str, str], *arguments: str) -> str:
    """Run ``reconnect …`` to its end; returns what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"reconnect {' '.join(arguments)}: {ran.stderr.strip()[-300:]}")
    return ran.stdout


@dataclass
class Celeries:
    """One ``celery worker`` with its children."""

    process: subprocess.Popen[bytes]
    settings: Mapping[str, str]
    log: Path
    app: Celery = field(init=False)

    def __post_init__(self) -> None:
        self.app = Celery(broker=self.settings["REDIS_URL"])
        self.app.conf.task_ignore_result = True

    def send(self, stage: str) -> None:
        """Put a task into a stage's queue, as beat does."""
        self.app.send_task(f"reconnect.{stage}", queue=stage)

    @property
    def main(self) -> psutil.Process:
        """Celery's main process."""
        return psutil.Process(self.process.pid)

    @property
    def children(self) -> list[psutil.Process]:
        """The child processes, which run the tasks."""
        return list(self.main.children())

    def cpu(self) -> float:
        """CPU seconds of all these processes so far."""
        return sum(cpu_of(process) for process in (self.main, *self.children))


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of one process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def celery_worker(settings: Mapping[str, str], *, children: int, folder: Path) -> Iterator[Celeries]:
    """A worker with all queues and ``children`` children, ready to take tasks."""
    log = folder / "worker.log"
    command = [
        sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-P", "prefork", "-c", str(children),
        "-Q", "sweep,fetch,deliver,verify,sync,events", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    with running(command, settings=settings, folder=folder, log=log) as process:
        wait_until(lambda: process.poll() is not None or b" ready." in log.read_bytes(), what="the worker's start")
        if process.poll() is not None:
            raise RuntimeError(f"the worker does not start: {log.read_text()[-2000:]}")
        yield Celeries(process, settings, log)


@contextmanager
def running(
    command: list[str], *, settings: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts; its output goes to ``log``.

    At the end it is killed with its children. Its work is over then, and Celery's warm stop would take two seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**settings),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], Any], *, seconds: float = 60.0, every: float = 0.02, what: str) -> None:
    """Wait on a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(every)


def failures(log: Path) -> list[str]:
    """The errors in a worker's log, one event a line. A run with errors is not counted."""
    return re.findall(r'"event": "(?:job_crashed|stage_failed|nobody_woken|uri_unreadable|stopped)".*', log.read_text())
