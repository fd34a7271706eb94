"""What a sweep costs beside reconnections that wait or have ended, where nothing is due and where 10,000 are."""

import asyncio
import time
from functools import partial
from statistics import median

import psycopg

from ops.bench.bench import Bench
from ops.bench.measures.sweeping import DUE
from ops.bench.population import fill_alike, fill_standing, set_status
from ops.bench.processes import settings_of
from ops.bench.results import in_turns, ratios, row_of
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.stages.sweep import sweep

#: Sweeps with nothing due in one turn: each is short.
_SWEEPS = 5


class Site:
    """A database with members, of which some are broken and have a reconnection that ended or waits for its reminder."""

    def __init__(self, bench: Bench, *, members: int, ended: int, waiting: int) -> None:
        self.name = f"standing_{ended}_{waiting}"
        self.says = f"{ended:,} ended and {waiting:,} open ones" if ended or waiting else "none"
        self._members = members
        self._url = bench.migrated(self.name)
        given = settings_of(database_url=self._url, redis_url="redis://127.0.0.1:9/0", mx_url="http://127.0.0.1:9")
        self._settings = load_settings(_env_file=None, **{name.lower(): value for name, value in given.items()})
        fill_alike(self._url, members, status="CONNECTED")
        fill_standing(self._url, ended=ended, waiting=waiting)
        asyncio.run(self._sweep(1))
        while self._reconciles():  # the first time everything is gone through
            asyncio.run(self._sweep(1))

    def _reconciles(self) -> bool:
        with psycopg.connect(self._url) as connection:
            return connection.execute("SELECT 1 FROM reconciliations WHERE finished_at IS NULL").fetchone() is not None

    async def _sweep(self, times: int, *, opens: int = 0) -> float:
        async def nobody(_stage: str, _n: int) -> int:
            return 0

        runtime = Runtime(self._settings, wake=nobody)
        try:
            await runtime.set_clock()  # connects
            await runtime.database.transaction(lambda connection: connection.exec_driver_sql("SELECT 1"))
            began = time.perf_counter()
            for _ in range(times):
                report = await sweep(runtime)
                if report is None or report.opened != opens or report.closed:
                    raise RuntimeError(f"the sweep did {report}")
            return (time.perf_counter() - began) / times
        finally:
            await runtime.close()

    def nothing_due(self) -> float:
        """Seconds of a sweep that finds nothing to do."""
        return asyncio.run(self._sweep(_SWEEPS))

    def some_due(self) -> float:
        """Seconds of a sweep that opens 10,000, which are closed again afterwards."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            # The last ones: the first are broken already.
            among = {"first": self._members - DUE, "step": 1, "count": DUE}
            set_status(connection, "DENIED", **among)
            took = asyncio.run(self._sweep(1, opens=DUE))
            set_status(connection, "CONNECTED", **among)
            connection.execute("DELETE FROM reconnections WHERE state = 'due'")
            connection.execute("DELETE FROM changed_members")
            connection.execute("VACUUM reconnections, changed_members")
        return took


def standing(bench: Bench) -> None:
    """Beside none, and beside as many as the form says."""
    members = bench.form.standing_members
    sites = [
        Site(bench, members=members, ended=ended, waiting=waiting) for ended, waiting in ((0, 0), *bench.form.standing)
    ]
    for what, name in (("nothing", "nothing_due"), (f"{DUE:,}", "some_due")):
        runs = {site.name: partial(getattr(site, name)) for site in sites}
        in_turns(runs, 1)
        found = in_turns(runs, bench.form.next_steps)
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
    for site in sites:
        bench.postgres.drop(site.name)
