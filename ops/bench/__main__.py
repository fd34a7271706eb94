"""``python -m ops.bench [--full] [--only NAME …] [--profile]``."""

import argparse
import logging
import sys
import time
import traceback
from contextlib import ExitStack

import psycopg
import redis
import structlog

from ops.bench.bench import Bench
from ops.bench.forms import FULL, SHORT
from ops.bench.machine import machine
from ops.bench.measures import (
    ageing,
    asked,
    child_memory,
    clicking,
    delivering,
    importing,
    partitioning,
    side_by_side,
    slow_tail,
    standing,
    sweeping,
    syncing,
    throughput,
    webhooks,
    writing,
)
from ops.bench.profiling import profile
from ops.bench.results import Results, Row
from ops.bench.servers import Broker, Postgres, broker, postgres, upstream
from worker.runtime import LoopThread

MEASURES = {
    "bare": throughput.against_bare,
    "rivals": side_by_side.side_by_side,
    "asked": asked.asked,
    "tables": sweeping.table_size,
    "standing": standing.standing,
    "ageing": ageing.ageing,
    "writing": writing.writing,
    "partitioning": partitioning.partitioning,
    "opening": sweeping.memory,
    "memory": child_memory.child_memory,
    "import": importing.importing,
    "deliver": delivering.delivering,
    "clicks": clicking.clicking,
    "webhooks": webhooks.webhooks,
    "sync": syncing.syncing,
    "tail": slow_tail.slow_tail,
    "children": throughput.children,
    "curve": throughput.curve,
}


def main() -> int:
    """Take the measures; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench")
    parser.add_argument("--full", action="store_true", help="everything, at full size; the better part of an hour")
    parser.add_argument(
        "--only", nargs="+", choices=MEASURES, help="these alone; of the short form only the curves are kept then"
    )
    parser.add_argument(
        "--profile", action="store_true", help="show where the CPU time of one child goes; nothing else"
    )
    given = parser.parse_args()
    # Sweeps run in this process; only their warnings and errors are printed.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    form = FULL if given.full else SHORT
    failed = 0
    began = time.monotonic()
    with ExitStack() as stack:
        servers = stack.enter_context(postgres()), stack.enter_context(broker()), stack.enter_context(upstream())
        results = Results(form=form.name, rounds=form.rounds, machine=_machine(*servers[:2]), only=given.only or ())
        bench = Bench(form, *servers, results)
        if given.profile:
            profile(bench)
            return 0
        for name in given.only or MEASURES:
            print(f"{name} …", flush=True)
            at = time.monotonic()
            try:
                MEASURES[name](bench)
            except Exception as error:  # noqa: BLE001 - the other measures must still run
                failed += 1
                traceback.print_exc()
                results.rows.append(Row(what=f"{name}: not measured", value=0, detail=str(error)[:120]))
            print(f"  ({time.monotonic() - at:.0f} s)", flush=True)
        results.seconds = time.monotonic() - began
    results.print()
    results.draw()
    if given.full or not given.only:
        results.write()
        print("Written to ops/bench/RESULTS.md.")
    return 1 if failed else 0


def _machine(database: Postgres, queue: Broker) -> dict[str, str]:
    with psycopg.connect(database.uri) as connection, redis.Redis(port=queue.port) as client:
        about = client.info("server")
        threads = LoopThread()
        kind = type(threads.loop)
        threads.close()
        row = connection.execute("SHOW server_version").fetchone()
        return machine(
            postgres=str(row[0]) if row else "",
            broker=f"Valkey {about.get('valkey_version', about.get('redis_version'))}",
            loop=f"{kind.__module__}.{kind.__qualname__}",
        )


if __name__ == "__main__":
    sys.exit(main())
