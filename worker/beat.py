"""Beat without a memory: what the schedule says now is all that it knows.

Celery's own scheduler keeps on disk when it last ran what. After a clock that once stood ahead it sends nothing until that moment
comes again, and a damaged file ends it. A sweep here is idempotent, and a minute is swept once, so nothing need be remembered:

1. At its start it sends what is scheduled once, whatever the time.
2. After that, a task is due when one of its slots has passed since the last look at the clock. Where the clock went back, it is due
   as well: one sweep too many does nothing.
3. What could not be sent is due at the next look.

A task is put into its queue only if none waits there already: a queue that nobody empties does not grow. It carries no expiry,
which a worker whose clock is ahead would take for past.
"""

from datetime import UTC, datetime
from typing import Any

import structlog
from celery.beat import Scheduler

from worker.errors import BrokerUnavailable
from worker.publishing import publish
from worker.schedules import slots_after
from worker.watching import watch

log = structlog.get_logger()

#: How soon it tries again where the broker did not take a task (seconds).
AGAIN = 5.0


class MemorylessScheduler(Scheduler):
    """Sends the tasks of ``beat_schedule``, whose schedules are crontab lines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: When the clock was last looked at for each entry whose task was sent.
        self._seen: dict[Any, datetime] = {}
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """The application's schedule and nothing else. Only a beat that runs sets it up; the one in the banner does not."""
        self.merge_inplace(self.app.conf.beat_schedule)
        watch()

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due; returns the seconds until the next look at the clock."""
        wait = float(self.max_interval or AGAIN)
        entries: dict[Any, Any] = self.schedule
        for entry in entries.values():
            now = datetime.now(UTC)
            line = entry.schedule.line
            seen = self._seen.get(entry.name)
            slots = slots_after(line, seen) if seen else []
            if (seen is None or now < seen or (slots and slots[0] <= now)) and not self._send(entry):
                wait = min(wait, AGAIN)
                continue
            self._seen[entry.name] = now
            if following := slots_after(line, now):
                wait = min(wait, max((following[0] - now).total_seconds(), 0.0) + 0.01)
        return wait

    def _send(self, entry: Any) -> bool:
        stage = entry.task.removeprefix("reconnect.")
        try:
            put = publish(self.app, stage, 1, **entry.kwargs)
        except BrokerUnavailable as error:
            log.error("not_scheduled", stage=stage, why=str(error))  # noqa: TRY400 - its text is the whole story
            return False
        if put:
            log.info("scheduled", stage=stage)
        else:
            log.warning("not_scheduled", stage=stage, why="one waits in its queue already: see that a worker runs")
        return True
