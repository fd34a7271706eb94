"""A scheduler for beat that keeps no state on disk.

Celery's own scheduler stores the time of each last run in a file. If the clock was ahead once, it sends nothing until that
time; a damaged file ends it. Here a sweep is idempotent, and each minute is swept once, so no state is needed:

1. At the start, every task is sent once, whatever the time.
2. After that, a task is due when a slot of its schedule has passed since the last tick. Example, for ``*/5 * * * *``: ticks at 12:04:50
   and 12:05:01 make it due. It is also due when the clock went back: an extra sweep does no harm.
3. A task that could not be sent is due again at the next tick.

A task is sent only if none waits in its queue, so a queue without a worker does not grow. Tasks have no expiry: a worker whose clock
is ahead would drop them.
"""

from datetime import UTC, datetime
from typing import Any

import structlog
from celery.beat import Scheduler

from worker.errors import BrokerUnavailable
from worker.overdue_sweeps import watch
from worker.publishing import publish
from worker.schedules import slots_after

log = structlog.get_logger()

#: How long to wait after the broker refused a task (seconds).
RETRY_AFTER = 5.0


class MemorylessScheduler(Scheduler):
    """Sends the tasks of ``beat_schedule``, whose schedules are crontab lines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: For each entry: the time of the last tick that sent its task or found it not due.
        self._checked_at: dict[Any, datetime] = {}
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Take the application's schedule. Celery calls this for a running beat only, not for the one that prints the banner."""
        self.merge_inplace(self.app.conf.beat_schedule)
        watch()

    def tick(self, *_: Any, **__: Any) -> float:
        """Send the tasks that are due; returns the seconds until the next tick."""
        wait = float(self.max_interval or RETRY_AFTER)
        entries: dict[Any, Any] = self.schedule
        for entry in entries.values():
            now = datetime.now(UTC)
            line = entry.schedule.line
            checked_at = self._checked_at.get(entry.name)
            slots = slots_after(line, checked_at) if checked_at else []
            is_due = checked_at is None or now < checked_at or (slots and slots[0] <= now)
            if is_due and not self._send(entry):
                wait = min(wait, RETRY_AFTER)
                continue
            self._checked_at[entry.name] = now
            if following := slots_after(line, now):
                wait = min(wait, max((following[0] - now).total_seconds(), 0.0) + 0.01)
        return wait

    def _send(self, entry: Any) -> bool:
        stage = entry.task.removeprefix("reconnect.")
        try:
            tasks_added = publish(self.app, stage, 1, **entry.kwargs)
        except BrokerUnavailable as error:
            log.error("not_scheduled", stage=stage, why=str(error))  # noqa: TRY400 - the text says all; a traceback adds nothing
            return False
        if tasks_added:
            log.info("scheduled", stage=stage)
        else:
            log.warning("not_scheduled", stage=stage, why="one waits in its queue already: see that a worker runs")
        return True
