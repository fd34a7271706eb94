"""The time of a sweep while the table has many reconnections that wait or have ended: with nothing due, and with 10,000 due. Also the
time of `status` and `explain` there. The plans of the statements with the most reconnections are written to ``results/plans.txt``,
those of the full form to ``results/plans-full.txt``.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from statistics import median

import psycopg

from ops.bench.bench import Bench
from ops.bench.forms import SHORT
from ops.bench.measures.sweeping import DUE
from ops.bench.plans import Plans
from ops.bench.population import fill_alike, fill_standing, member_guid, set_status
from ops.bench.processes import settings_of
from ops.bench.results import KEPT, in_turns, ratios, row_of
from worker.cli.explain import explanation
from worker.cli.status import overview
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.stages.sweep import sweep

#: Sweeps with nothing due in one round. Each is short, so several are timed together.
_SWEEPS = 5
#: The database with the members. Each site gets a copy.
_TEMPLATE = "standing"


class Site:
    """A database with members. Some are broken, and their reconnection has ended or waits for its reminder."""

    def __init__(self, bench: Bench, *, members: int, ended: int, waiting: int) -> None:
        self.name = f"standing_{ended}_{waiting}"
        self.says = f"{ended:,} ended and {waiting:,} open ones" if ended or waiting else "none"
        self.ended, self.waiting = ended, waiting
        self._members = members
        self._url = bench.postgres.create(self.name, template=_TEMPLATE)
        given = settings_of(database_url=self._url, redis_url="redis://127.0.0.1:9/0", mx_url="http://127.0.0.1:9")
        self._settings = load_settings(_env_file=None, **{name.lower(): value for name, value in given.items()})
        fill_standing(self._url, ended=ended, waiting=waiting)
        asyncio.run(self._sweep(1))
        with psycopg.connect(self._url) as connection:  # skips the first reconciliation, of millions
            connection.execute("UPDATE reconciliations SET finished_at = clock_timestamp() WHERE finished_at IS NULL")

    @asynccontextmanager
    async def _runtime(self) -> AsyncIterator[Runtime]:
        """A connected runtime that wakes no worker."""

        async def nobody(_stage: str, _n: int) -> int:
            return 0

        runtime = Runtime(self._settings, wake=nobody)
        try:
            await runtime.set_clock()  # connects
            await runtime.database.transaction(lambda connection: connection.exec_driver_sql("SELECT 1"))
            yield runtime
        finally:
            await runtime.close()

    async def _sweep(self, times: int, *, opens: int = 0, plans: Plans | None = None) -> float:
        async with self._runtime() as runtime:
            if plans:
                plans.watch(runtime.database.engine)
            began = time.perf_counter()
            for _ in range(times):
                report = await sweep(runtime)
                if report is None or report.opened != opens or report.closed:
                    raise RuntimeError(f"the sweep did {report}")
            return (time.perf_counter() - began) / times

    def nothing_due(self) -> float:
        """Seconds of a sweep that finds nothing to do."""
        return asyncio.run(self._sweep(_SWEEPS))

    def some_due(self, plans: Plans | None = None) -> float:
        """Seconds of a sweep that opens 10,000, which are closed again afterwards."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            # The last members, since the first are broken already.
            among = {"first": self._members - DUE, "step": 1, "count": DUE}
            set_status(connection, "DENIED", **among)
            took = asyncio.run(self._sweep(1, opens=DUE, plans=plans))
            set_status(connection, "CONNECTED", **among)
            connection.execute("DELETE FROM reconnections WHERE state = 'due'")
            connection.execute("DELETE FROM changed_members")
            # If few rows of many are dead, a plain VACUUM leaves their index entries, and the next sweep would have to mark them. A table
            # without history has no such entries, so the comparison would be unfair.
            connection.execute("VACUUM (INDEX_CLEANUP ON) reconnections, changed_members")
        return took

    async def asked(self, plans: Plans | None = None) -> tuple[float, float]:
        """Milliseconds of `status`, and of `explain` of a waiting member, without the start of the command."""
        async with self._runtime() as runtime:
            if plans:
                plans.watch(runtime.database.engine)
            moments = [time.perf_counter()]
            for ask in (overview(runtime), explanation(runtime, member_guid(self.ended + self.waiting // 2))):
                await ask
                moments.append(time.perf_counter())
        status, explain = (1e3 * (after - before) for before, after in pairwise(moments))
        return status, explain

    def explained(self) -> Plans:
        """The plans of all statements that are measured here."""
        plans = Plans()
        asyncio.run(self._sweep(1, plans=plans))
        self.some_due(plans)
        asyncio.run(self.asked(plans))
        return plans


def standing(bench: Bench) -> None:
    """Measure with no other reconnections, and with the numbers of the form."""
    members = bench.form.standing_members
    fill_alike(bench.migrated(_TEMPLATE), members, status="CONNECTED")
    sites = [
        Site(bench, members=members, ended=ended, waiting=waiting) for ended, waiting in ((0, 0), *bench.form.standing)
    ]
    for what, name in (("nothing", "nothing_due"), (f"{DUE:,}", "some_due")):
        runs = {site.name: partial(getattr(site, name)) for site in sites}
        in_turns(runs, 1)
        found = in_turns(runs, bench.form.rounds)
        empty = found[sites[0].name]
        for site in sites[1:]:
            bench.add(
                row_of(
                    f"a sweep with {what} due: among {members:,} members with {site.says} ÷ without any",
                    ratios(found[site.name], empty),
                    at_most=1.3,
                    detail=f"{median(found[site.name]) * 1e3:.0f} ms against {median(empty) * 1e3:.0f} ms",
                )
            )
    most = sites[-1]
    beside = f"among {members:,} members with {most.says}"
    asked = [asyncio.run(most.asked()) for _ in range(bench.form.rounds + 1)][1:]
    for place, (command, at_most) in enumerate((("status", 300), ("explain", 100))):
        took = [each[place] for each in asked]
        bench.add(row_of(f"what `{command}` reads, {beside}", took, unit="ms", at_most=at_most))
    alone = Plans()
    sites[0].some_due(alone)
    shown = (
        most.explained().shown(title=f"make {bench.form.name}: {beside}"),
        alone.shown(title=f"For comparison, what a sweep with {DUE:,} due says without any, the dearest", most=3),
    )
    name = "plans.txt" if bench.form is SHORT else "plans-full.txt"
    (KEPT / name).write_text("\n".join(shown), encoding="utf-8")
    for name in (*(site.name for site in sites), _TEMPLATE):
        bench.postgres.drop(name)
