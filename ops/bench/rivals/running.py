"""Runs a rival: fills its queue, starts its processes, and measures the time from the first request to the last stored row."""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from ops.bench.processes import running, settings_of, wait_until
from ops.bench.rivals.task import SCHEMA
from ops.bench.servers import Broker, Upstream, environment


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One rival with its setting."""

    name: str
    kind: str
    #: Requests in flight, all processes together.
    in_flight: int
    processes: int = 1
    #: Connections to the database for each process.
    connections: int = 20

    def command(self, count: int) -> list[str]:
        """The command that its manual gives."""
        celery = ("celery", "-A", "ops.bench.rivals.celery_app", "worker", "--without-gossip", "--without-mingle")
        module: dict[str, tuple[str, ...]] = {
            "prefork": (*celery, "-P", "prefork", "-c", str(self.in_flight)),
            "threads": (*celery, "-P", "threads", "-c", str(self.in_flight)),
            "gevent": (*celery, "-P", "gevent", "-c", str(self.in_flight)),
            "arq": ("arq", "ops.bench.rivals.arq_app.WorkerSettings", "--custom-log-dict", "ops.bench.rivals.arq_app.QUIET"),
            "taskiq": (
                "taskiq", "worker", "ops.bench.rivals.taskiq_app:broker", "--workers", str(self.processes),
                "--max-async-tasks", str(self.in_flight // self.processes), "--max-prefetch", "50",
                "--log-level", "WARNING",
            ),
            "script": ("ops.bench.rivals.script", str(count)),
        }  # fmt: skip
        return [sys.executable, "-m", *module[self.kind]]


@dataclass(frozen=True, kw_only=True)
class RivalRan:
    """One run of a rival."""

    members: int
    seconds: float
    #: The time to fill its queue, which is not part of ``seconds``.
    publishing_seconds: float

    @property
    def rate(self) -> float:
        """Members a second, without the time to fill the queue."""
        return self.members / self.seconds


def run_rival(
    rival: Rival, count: int, *, database_url: str, broker: Broker, number: int, upstream: Upstream
) -> RivalRan:
    """Let a rival fetch and store ``count`` members."""
    settings = settings_of(database_url=database_url, redis_url=broker.url(number), mx_url=upstream.url)
    settings |= {
        "BENCH_IN_FLIGHT": str(rival.in_flight // rival.processes),
        "BENCH_CONNECTIONS": str(1 if rival.kind == "prefork" else rival.connections),
    }
    broker.empty(number)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute("TRUNCATE rival_windows, rival_notifications")
        connection.execute("CHECKPOINT")
        publishing = _publish(rival, count, settings) if rival.kind != "script" else 0.0
        upstream.set()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            log = Path(folder) / "log"
            command = rival.command(count)
            # taskiq starts its processes itself.
            copies = rival.processes if rival.kind == "arq" else 1
            with ExitStack() as stack:
                for copy in range(copies):
                    stack.enter_context(
                        running(command, settings=settings, folder=Path(folder), log=log.with_suffix(f".{copy}"))
                    )
                wait_until(
                    lambda: upstream.stats()["answered"] >= count, seconds=60 + count / 20, every=0.1, what=rival.name
                )
                stored = "SELECT count(*) FROM rival_notifications"
                wait_until(
                    lambda: connection.execute(stored).fetchone() == (count,), every=0.02, what=f"{rival.name}'s rows"
                )
                ended = time.monotonic()
        first_at = upstream.stats()["first_at"]
        connection.execute("DROP TABLE rival_windows, rival_notifications")
    return RivalRan(members=count, seconds=ended - first_at, publishing_seconds=publishing)


def _publish(rival: Rival, count: int, settings: dict[str, str]) -> float:
    kind = "celery" if rival.kind in {"prefork", "threads", "gevent"} else rival.kind
    ran = subprocess.run(
        [sys.executable, "-m", "ops.bench.rivals.publish", kind, str(count)],
        env=environment(**settings), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"{rival.name}: its queue cannot be filled: {ran.stderr[-2000:]}")
    return float(ran.stdout)
