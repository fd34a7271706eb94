"""Which moments a crontab line names, without a clock of its own and without anything remembered."""

from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from celery.schedules import crontab

#: A crontab asks an application for its time zone. Ours are in UTC, and the worker's application would ask for settings.
_UTC = Celery("schedules", set_as_current=False, config_source={"timezone": "UTC"})


class Line(crontab):
    """A crontab line as Celery's schedule, which knows its text."""

    def __init__(self, line: str, **options: Any) -> None:
        self.line = line
        minute, hour, day_of_month, month_of_year, day_of_week = line.split()
        super().__init__(minute, hour, day_of_week, day_of_month, month_of_year, app=_UTC, **options)


#: How long after its slot a sweep may begin: beat sends it within a second, a worker takes it within some.
LATE = timedelta(seconds=30)


def slots_after(line: str, moment: datetime, n: int = 1) -> list[datetime]:
    """The first ``n`` moments after ``moment`` that a crontab line names, in UTC; fewer where it names no more (30 February)."""
    schedule = Line(line, nowfun=lambda: moment)
    slots: list[datetime] = []
    for _ in range(n):
        try:
            last, step, _now = schedule.remaining_delta(slots[-1] if slots else moment, tz=UTC)
            slots.append(last + step)
        except (RuntimeError, OverflowError):  # Celery gives up after some thousand years
            break
    return slots


def overdue_since(line: str, last: datetime, now: datetime) -> datetime | None:
    """Since when sweeps are overdue, or ``None``. They are when two slots have passed since ``last``, when the last one began.

    One missed slot is no error: its sweep may still wait for a worker. Example, for ``*/5 * * * *``: the last sweep began at
    12:00:02, the slots after it are 12:05 and 12:10, so from 12:10:30 on sweeps are overdue, since 12:10.
    """
    slots = slots_after(line, last, 2)
    return slots[1] if len(slots) == 2 and slots[1] + LATE < now else None  # noqa: PLR2004 - the two of them
