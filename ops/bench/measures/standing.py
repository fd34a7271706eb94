"""What a sweep costs beside reconnections that wait or have ended, where nothing is due and where 10,000 are; and what `status` and
`explain` cost there. The plans of their statements beside the most of them are kept as ``results/plans.txt``, those of the full
form as ``results/plans-full.txt``.
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

#: Sweeps with nothing due in one turn: each is short.
_SWEEPS = 5
#: The database with the members, of which each site gets a copy.
_TEMPLATE = "standing"


class Site:
    """A database with members, of which some are broken and have a reconnection that ended or waits for its reminder."""

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
        with psycopg.connect(self._url) as connection:  # the first reconciliation, of millions, is put down as done
            connection.execute("UPDATE reconciliations SET finished_at = clock_timestamp() WHERE finished_at IS NULL")

    @asynccontextmanager
    async def _runtime(self) -> AsyncIterator[Runtime]:
        """A process that is connected, and that wakes nobody."""

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
            # The last ones: the first are broken already.
            among = {"first": self._members - DUE, "step": 1, "count": DUE}
            set_status(connection, "DENIED", **among)
            took = asyncio.run(self._sweep(1, opens=DUE, plans=plans))
            set_status(connection, "CONNECTED", **among)
            connection.execute("DELETE FROM reconnections WHERE state = 'due'")
            connection.execute("DELETE FROM changed_members")
            # Where few rows of many are dead, VACUUM alone leaves their entries in the indexes, and the next sweep would find them and mark
            # them: a table without history has none.
            connection.execute("VACUUM (INDEX_CLEANUP ON) reconnections, changed_members")
        return took

    async def asked(self, plans: Plans | None = None) -> tuple[float, float]:
        """Milliseconds of `status` and of `explain` of a member that waits; the start of a command is not among them."""
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
        """The plans of all that is measured here."""
        plans = Plans()
        asyncio.run(self._sweep(1, plans=plans))
        self.some_due(plans)
        asyncio.run(self.asked(plans))
        return plans


def standing(bench: Bench) -> None:
    """Beside none, and beside as many as the form says."""
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
