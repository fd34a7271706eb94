"""The time of a sweep by the size of the members table, and its memory."""

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from statistics import median

import psycopg

from ops.bench.bench import Bench
from ops.bench.peak import peak_of
from ops.bench.plotting import Curve
from ops.bench.population import WORK_TABLES, fill_alike, set_status
from ops.bench.processes import settings_of
from ops.bench.results import Row, in_turns, ratios, row_of
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.stages.sweep import sweep

#: How many members are due, whatever the size of the table.
DUE = 10_000


class Table:
    """A database with ``size`` members, and a runtime that sweeps it."""

    def __init__(self, bench: Bench, size: int) -> None:
        self.size = size
        self._url = bench.migrated(f"table_{size}")
        given = settings_of(database_url=self._url, redis_url="redis://127.0.0.1:9/0", mx_url="http://127.0.0.1:9")
        fill_alike(self._url, size, status="CONNECTED")
        self._settings = load_settings(_env_file=None, **{name.lower(): value for name, value in given.items()})
        self._turn = 0

    def sweeps(self, *, checkpoint_between: bool = False) -> tuple[float, float]:
        """Break some members and sweep twice. Returns the seconds of the sweep that opens, and of the next, which finds them open.

        After a checkpoint, the first change of a page logs the whole page. With ``checkpoint_between`` the sweep pays for that, and
        otherwise the statements that break the members do.
        """
        self._turn += 1
        # A step that the number of institutions does not divide, so that all institutions are equally affected.
        among = {"first": self._turn, "step": self.size // DUE - 1, "count": DUE}
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            set_status(connection, "DENIED", **among)
            if checkpoint_between:
                connection.execute("CHECKPOINT")
            took = asyncio.run(self._sweep_twice())
            set_status(connection, "CONNECTED", **among)
            connection.execute(f"TRUNCATE {', '.join(WORK_TABLES)}")
        return took

    async def _sweep_twice(self) -> tuple[float, float]:
        async def nobody(_stage: str, _n: int) -> int:
            return 0

        runtime = Runtime(self._settings, wake=nobody)
        try:
            await runtime.set_clock()  # connects
            moments = [time.perf_counter()]
            opened = []
            for _ in range(2):
                report = await sweep(runtime)
                opened.append(report.opened if report else None)
                moments.append(time.perf_counter())
            if opened != [DUE, 0]:
                raise RuntimeError(f"the sweeps opened {opened}")
            return moments[1] - moments[0], moments[2] - moments[1]
        finally:
            await runtime.close()


def table_size(bench: Bench) -> None:
    """Measure 10,000 due members in a small and in a large table."""
    form = bench.form
    tables = {size: Table(bench, size) for size in form.tables}
    in_turns({f"{size}": table.sweeps for size, table in tables.items()}, 1)
    found = _in_turns(tables, form.rounds)
    few, many = form.tables[0], form.tables[-1]
    _rows(bench, found, few, many)
    if len(tables) > 2:
        _rows(bench, _in_turns(tables, form.rounds, checkpoint_between=True), few, many, "a checkpoint between, ")
        lines = {
            label: [(size, median(took[place] for took in found[size])) for size in tables]
            for place, label in enumerate(("opens 10,000", "finds them open"))
        }
        bench.results.curves.append(
            Curve(name="table-size", title="A sweep, 10,000 due", x="members", y="seconds", lines=lines, log_x=True)
        )
    for size in tables:
        bench.postgres.drop(f"table_{size}")


def _in_turns(
    tables: dict[int, Table], rounds: int, *, checkpoint_between: bool = False
) -> dict[int, list[tuple[float, float]]]:
    runs = {f"{size}": partial(table.sweeps, checkpoint_between=checkpoint_between) for size, table in tables.items()}
    found = in_turns(runs, rounds)
    return {size: found[f"{size}"] for size in tables}


def _rows(bench: Bench, found: dict[int, list[tuple[float, float]]], few: int, many: int, how: str = "") -> None:
    for place, what in enumerate(("a sweep that opens 10,000", "the next sweep, which finds 10,000 open")):
        seconds = {size: [took[place] for took in ran] for size, ran in found.items()}
        bench.add(
            row_of(
                f"{what}: {how}among {many:,} members ÷ among {few:,}",
                ratios(seconds[many], seconds[few]),
                at_most=1.3,
                detail=", ".join(f"{median(took):.2f} s among {size:,}" for size, took in seconds.items()),
            )
        )


def memory(bench: Bench) -> None:
    """Measure the peak memory of `reconnect sweep` when it opens few and many reconnections."""
    peaks = {}
    for broken in bench.form.openings:
        with ExitStack() as stack:
            name = f"opening_{broken}"
            url = bench.migrated(name)
            stack.callback(bench.postgres.drop, name)
            given = settings_of(database_url=url, redis_url=bench.broker.url(13), mx_url="http://127.0.0.1:9")
            fill_alike(url, broken, status="DENIED")
            peaks[broken] = peak_of(given, "sweep")
            bench.broker.empty(13)
            with psycopg.connect(url) as connection:
                found = connection.execute("SELECT count(*) FROM reconnections").fetchone()
                if found != (broken,):
                    raise RuntimeError(f"the sweep opened {found}")
    (few, (least, _)), (many, (most, seconds)) = peaks.items()
    bench.add(
        Row(
            what=f"peak memory of a sweep that opens {many:,}",
            value=most,
            unit="MiB",
            at_most=150,
            samples=(most,),
            detail=f"{least:.0f} MiB for {few:,}; it took {seconds:.1f} s, the command's start included",
        ),
        Row(
            what=f"the same ÷ that of one that opens {few:,}", value=most / least, at_most=1.1, samples=(most / least,)
        ),
    )
