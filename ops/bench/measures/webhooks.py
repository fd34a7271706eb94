"""Webhooks: how many a second one web process stores. Each is answered after its commit."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import psycopg

from ops.bench.bench import Bench, run_module
from ops.bench.processes import cpu_of, running, settings_of, wait_until
from ops.bench.results import Row
from ops.bench.servers import is_open
from worker.cli.processes import free_port

REQUESTS, CONNECTIONS, WANTED = 10_000, 200, 2_500
CREDENTIALS = "mx:bench-password"


def webhooks(bench: Bench) -> None:
    """Send 10,000 webhooks over 200 connections; one in ten repeats another. On PostgreSQL."""
    url = bench.migrated("webhooks")
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = settings_of(
        database_url=url,
        redis_url=f"redis://127.0.0.1:{bench.broker.port}/15",
        mx_url="http://127.0.0.1:9",
        public_base_url=f"http://{address}",
        web_listen=address,
        mx_webhook_auth=CREDENTIALS,
    )
    with tempfile.TemporaryDirectory(prefix="bench-webhooks-") as given:
        folder = Path(given)
        command = [sys.executable, "-m", "worker", "web"]
        with running(command, settings=settings, folder=folder, log=folder / "web.log") as process:
            wait_until(lambda: is_open(port), what="the web process's start")
            _send(address, 1_000)  # warms the process up
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("TRUNCATE hints")
                web = psutil.Process(process.pid)
                cpu, commits = cpu_of(web), _commits(connection)
                found = _send(address, REQUESTS)
                cpu, commits = cpu_of(web) - cpu, _commits(connection) - commits
                row = connection.execute("SELECT count(*), sum(times) FROM hints").fetchone()
    took = found["took"]
    half, most = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    detail = (
        f"{cpu / REQUESTS * 1e6:.0f} µs of CPU each, {commits} commits; half within {half:.0f} ms, 99 % within {most:.0f} ms; "
        f"{found['distinct']} distinct of {REQUESTS}, stored {row}"
    )
    if found["statuses"] != {"204": REQUESTS} or row != (found["distinct"], REQUESTS):
        raise RuntimeError(f"not every webhook was stored once: {found['statuses']}, {row}")
    bench.add(
        Row(
            what=f"webhooks a second of one web process, {CONNECTIONS} connections",
            value=REQUESTS / found["seconds"],
            at_least=WANTED,
            detail=detail,
        ),
        # CPU time depends less than the rate on other work of the machine. The limit: one core is enough for the wanted rate.
        Row(what="CPU of a webhook in the web process", value=cpu / REQUESTS * 1e6, unit="µs", at_most=1e6 / WANTED),
    )


def _send(address: str, requests: int) -> Any:
    return run_module(
        "ops.bench.webhook_load", address, CREDENTIALS, "--requests", str(requests), "--connections", str(CONNECTIONS)
    )


def _commits(connection: psycopg.Connection[Any]) -> int:
    """How many commits this database has had so far. PostgreSQL's count may be a second late."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").fetchone()
    return int(row[0]) if row else 0
