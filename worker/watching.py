"""Whoever runs sees it: sweeps that are overdue are an error in the log of every worker and of beat.

Where beat or cron is dead, nobody sends a task that could notice it, so the processes look by themselves. A worker's main process
opens no connection to the database, since it forks: it hands the question to one of its children. Beat asks from a thread.
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
from worker.store.reports import ReportStore
from worker.store.sql.database import Database, open_engine

log = structlog.get_logger()

#: How often a process looks, by one short query (seconds).
EVERY = 15.0
#: How long an answer may take until it is asked again, as its child may have died (seconds).
GIVEN_UP = 300.0
#: How often it repeats what goes on (seconds).
REPEAT = 600.0


async def overdue(database: Database, uptime: float) -> str | None:
    """What to say of overdue sweeps; ``None`` if they are in time."""
    found = await ReportStore(database).overdue_sweeps(
        settings().sweep_schedule, expected_for=timedelta(seconds=uptime)
    )
    return found.text if found else None


class Herald:
    """Says it when it begins, every ten minutes while it lasts, and when it is over."""

    def __init__(self) -> None:
        self._said_at: float | None = None

    def hear(self, why: str | None) -> None:
        """Log what a look found."""
        now = time.monotonic()
        if why is None:
            if self._said_at is not None:
                log.info("sweeps_in_time_again")
            self._said_at = None
        elif self._said_at is None or now - self._said_at >= REPEAT:
            self._said_at = now
            log.error("sweeps_overdue", why=why)


class SweepWatch(bootsteps.StartStopStep):
    """The look of a worker: its main process asks a child, and logs what it hears."""

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")

    def __init__(self, worker: Any, **_: Any) -> None:
        super().__init__(worker)
        self._began = time.monotonic()
        self._herald = Herald()
        #: When a child was asked that has not answered: all may be busy, and one question is enough.
        self._asked_at: float | None = None
        # By name: the tasks know of the application, which knows of this step.
        self._look = symbol_by_name("worker.tasks:look_for_overdue_sweeps")

    def start(self, worker: Any) -> None:
        """Look every fifteen seconds."""
        worker.timer.call_repeatedly(EVERY, self._ask, (worker.pool,))

    def _ask(self, pool: Any) -> None:
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at > GIVEN_UP:
            self._asked_at = now
            pool.apply_async(self._look, (now - self._began,), callback=self._heard)

    def _heard(self, why: str | None) -> None:
        self._asked_at = None
        self._herald.hear(why)


def watch() -> None:
    """The look of a process that does not fork: from a thread, through a connection for each."""
    began, herald = time.monotonic(), Herald()

    async def ask() -> str | None:
        database = Database(open_engine(settings()))
        try:
            return await overdue(database, time.monotonic() - began)
        finally:
            await database.close()

    def go_on() -> None:
        while True:
            time.sleep(EVERY)
            with suppress(Exception):  # a database that is away is said by those who need it
                herald.hear(asyncio.run(ask()))

    threading.Thread(target=go_on, name="sweep-watch", daemon=True).start()
