"""Logs an error in every worker and in beat while sweeps are overdue.

If beat or cron is dead, no task comes that could notice it. So every process checks the database by itself, every 15 seconds. A
worker's main process forks, so it must not connect to the database; it asks one of its children to check. Beat checks in a thread.
"""

import asyncio
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from celery import bootsteps
from kombu.utils.imports import symbol_by_name

from worker.settings import settings
from worker.store.queries.reports import ReportStore
from worker.store.sql.database import Database, open_engine

log = structlog.get_logger()

#: Time between two checks, each one short query (seconds).
EVERY = 15.0
#: After this time without an answer another child is asked, because the first may have died (seconds).
ANSWER_WITHIN = 300.0
#: Time between two log lines while sweeps stay overdue (seconds).
REPEAT = 600.0


async def overdue(database: Database, uptime: float) -> str | None:
    """The text for the log if sweeps are overdue, else ``None``."""
    late_sweeps = await ReportStore(database).overdue_sweeps(
        settings().sweep_schedule, expected_for=timedelta(seconds=uptime)
    )
    return late_sweeps.text if late_sweeps else None


class OverdueLog:
    """Logs when sweeps become overdue, every ten minutes while they are overdue, and when they are on time again."""

    def __init__(self) -> None:
        self._logged_at: float | None = None

    def record(self, why: str | None) -> None:
        """Log the result of a check. ``None``: sweeps are on time."""
        now = time.monotonic()
        if why is None:
            if self._logged_at is not None:
                log.info("sweeps_in_time_again")
            self._logged_at = None
        elif self._logged_at is None or now - self._logged_at >= REPEAT:
            self._logged_at = now
            log.error("sweeps_overdue", why=why)


class SweepWatch(bootsteps.StartStopStep):
    """The check of a worker: the main process asks a child to check, and logs the result."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, worker: Any, **_: Any) -> None:
        super().__init__(worker)
        self._began = time.monotonic()
        self._log = OverdueLog()
        #: When a child was asked; ``None`` once it has answered. While all children are busy, only one check waits.
        self._asked_at: float | None = None
        # By name, because an import would be circular: worker.tasks imports worker.app, which names this step.
        self._check = symbol_by_name("worker.tasks:check_overdue_sweeps")

    def start(self, worker: Any) -> None:
        """Check every 15 seconds."""
        worker.timer.call_repeatedly(EVERY, self._ask, (worker.pool,))

    def _ask(self, pool: Any) -> None:
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at > ANSWER_WITHIN:
            self._asked_at = now
            pool.apply_async(self._check, (now - self._began,), callback=self._answered)

    def _answered(self, why: str | None) -> None:
        self._asked_at = None
        self._log.record(why)


def watch() -> None:
    """Start the check of a process that does not fork: in a thread, with a new connection for each check."""
    began, overdue_log = time.monotonic(), OverdueLog()

    async def check() -> str | None:
        database = Database(open_engine(settings()))
        try:
            return await overdue(database, time.monotonic() - began)
        finally:
            await database.close()

    def check_forever() -> None:
        while True:
            time.sleep(EVERY)
            with suppress(Exception):  # stages report a database that cannot be reached
                overdue_log.record(asyncio.run(check()))

    threading.Thread(target=check_forever, name="sweep-watch", daemon=True).start()
