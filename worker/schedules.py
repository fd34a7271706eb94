"""The moments that a crontab line names, computed from a given time and without state."""

from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from celery.schedules import crontab

#: Celery's crontab reads its time zone from an application. This one is in UTC and, unlike the worker's, needs no settings.
_UTC = Celery("schedules", set_as_current=False, config_source={"timezone": "UTC"})


class Line(crontab):
    """Celery's schedule for a crontab line; keeps the line's text."""

    def __init__(self, line: str, **options: Any) -> None:
        self.line = line
        minute, hour, day_of_month, month_of_year, day_of_week = line.split()
        super().__init__(minute, hour, day_of_week, day_of_month, month_of_year, app=_UTC, **options)


#: How long after its slot a sweep may begin. Beat sends it within a second, and a worker takes it a few seconds later.
LATE = timedelta(seconds=30)


def slots_after(line: str, moment: datetime, n: int = 1) -> list[datetime]:
    """The first ``n`` moments after ``moment`` that a crontab line names, in UTC; fewer if there are no more (30 February: none)."""
    schedule = Line(line, nowfun=lambda: moment)
    slots: list[datetime] = []
    for _ in range(n):
        try:
            last, step, _now = schedule.remaining_delta(slots[-1] if slots else moment, tz=UTC)
            slots.append(last + step)
        except (RuntimeError, OverflowError):  # Celery found no further moment
            break
    return slots


def overdue_since(line: str, last: datetime, now: datetime) -> datetime | None:
    """Since when sweeps are overdue, or ``None``. ``last`` is when the last sweep began; two slots must have passed since.

    One missed slot is no error: its sweep may still wait for a worker. Example, for ``*/5 * * * *``: the last sweep began at
    12:00:02. The next slots are 12:05 and 12:10. From 12:10:30 on sweeps are overdue, and the answer is 12:10.
    """
    slots = slots_after(line, last, 2)
    return slots[1] if len(slots) == 2 and slots[1] + LATE < now else None  # noqa: PLR2004 - both slots
