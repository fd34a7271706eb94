"""A sync of all users against bare aiohttp that asks for the same pages, and whether a sync's memory grows with the users."""

import json
import subprocess
import sys
from statistics import median
from typing import Any

from ops.bench.bench import Bench, run_module
from ops.bench.processes import settings_of
from ops.bench.results import Row, in_turns, ratios, row_of
from ops.bench.servers import environment

IN_FLIGHT = 200


def syncing(bench: Bench) -> None:
    """Measure two syncs on PostgreSQL: one into empty tables, which writes every row, and one that changes nothing."""
    users, rounds = bench.form.sync_users, bench.form.sync_rounds

    def bare() -> dict[str, Any]:
        bench.upstream.set(users=users)
        found = dict(run_module("ops.bench.bare_lists", bench.upstream.url, "--in-flight", str(IN_FLIGHT)))
        return found | _window(bench)

    def first() -> dict[str, Any]:
        return _sync(bench, bench.migrated("syncing"), users)

    def second() -> dict[str, Any]:
        return _sync(bench, bench.postgres.url("syncing"), users)

    found = in_turns(
        {"bare": bare, "first": first, "second": second}, 1
    )  # not in_turns, which may reverse the order: the second sync must follow the first
    for _ in range(rounds - 1):
        for name, run in (("bare", bare), ("first", first), ("second", second)):
            found[name].append(run())
    bench.postgres.drop("syncing")
    rates = [run["requests"] / run["window"] for run in found["bare"]]
    for name, says in (("second", "nothing changed"), ("first", "every row is new")):
        ours = [run["requests"] / run["window"] for run in found[name]]
        bench.add(
            row_of(
                f"sync ÷ bare aiohttp, {IN_FLIGHT} in flight, {says}",
                ratios(ours, rates),
                at_least=0.9,
                detail=f"{median(ours):,.0f} requests/s against {median(rates):,.0f}; {users:,} users; CPU a request "
                f"{_cpu(found[name], found['bare']):.0f} µs against {_cpu(found['bare'], found['bare']):.0f} µs",
            )
        )
    held = found["second"][-1]["held"]
    few = next(memory for done, memory in held if done >= users // 4)
    bench.add(
        Row(
            what=f"memory of a sync at its end ÷ after a quarter of {users:,} users",
            value=held[-1][1] / few,
            at_most=1.1,
            detail=f"{held[-1][1]:.0f} MiB against {few:.0f} MiB",
        )
    )


def _cpu(ours: list[dict[str, Any]], bare: list[dict[str, Any]]) -> float:
    return median(run["cpu"] / each["requests"] for run, each in zip(ours, bare, strict=True)) * 1e6


def _sync(bench: Bench, url: str, users: int) -> dict[str, Any]:
    bench.upstream.set(users=users)
    settings = settings_of(
        database_url=url, redis_url=bench.broker.url(13), mx_url=bench.upstream.url, mx_max_connections=IN_FLIGHT
    )
    ran = subprocess.run(
        [sys.executable, "-m", "ops.bench.sync_run"],
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"sync: {ran.stderr[-2000:]}")
    result = dict(json.loads(ran.stdout.splitlines()[-1]))
    if result["found"]["users"] != users:
        raise RuntimeError(f"the sync found {result['found']}")
    return result | _window(bench)


def _window(bench: Bench) -> dict[str, Any]:
    """The number of requests, and the seconds from the first request to the last answer, without the start of the process."""
    stats = bench.upstream.stats()
    return {"requests": stats["answered"], "window": stats["last_at"] - stats["first_at"]}
