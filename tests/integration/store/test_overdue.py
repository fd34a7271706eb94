"""Sweeps are overdue once two slots of the schedule have passed without one, by the database's clock."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.schedules import overdue_since, slots_after
from worker.stages.sweep import sweep
from worker.store.queries.reports import ReportStore

AT = datetime(2026, 3, 2, 12, 0, 2, tzinfo=UTC)  # a Monday
BenchFor = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize(
    ("line", "fine_until", "since"),
    [
        ("*/5 * * * *", timedelta(minutes=10), "12:10"),
        ("* * * * *", timedelta(minutes=2), "12:02"),
        ("0 9-17 * * *", timedelta(hours=2), "14:00"),
        ("0 9 * * 1", timedelta(days=13, hours=21), "09:00"),  # this Monday was swept: slots in one week and in two
        ("0 0 29 2 *", timedelta(days=2000), "00:00"),
    ],
)
def test_sweeps_are_overdue_once_two_slots_have_passed(line: str, fine_until: timedelta, since: str) -> None:
    assert overdue_since(line, AT, AT + fine_until) is None
    found = overdue_since(line, AT, slots_after(line, AT, 2)[1] + timedelta(minutes=1))
    assert found is not None
    assert f"{found:%H:%M}" == since


async def test_a_sweep_that_is_overdue_is_seen_and_one_that_runs_clears_it(bench_for: BenchFor) -> None:
    bench = await bench_for()
    reports, now = ReportStore(bench.runtime.database), bench.runtime.clock.now()
    assert await reports.overdue_sweeps("*/5 * * * *") is None, "there is no schedule to be late by"
    never = await reports.overdue_sweeps("*/5 * * * *", expected_for=timedelta(minutes=20))
    assert never is not None
    assert "there never was one" in never.text
    old = bench.stored(now - timedelta(minutes=11))
    await bench.sql("INSERT INTO sweeps (started_at) VALUES (:at)", at=old)
    overdue = await reports.overdue_sweeps("*/5 * * * *")
    assert overdue is not None
    assert "`reconnect sweep`" in overdue.text
    assert await reports.overdue_sweeps("0 * * * *") is None
    assert await sweep(bench.runtime) is not None
    assert await reports.overdue_sweeps("*/5 * * * *") is None


async def test_a_database_clock_that_stood_ahead_once_neither_hides_nor_stops_sweeps(bench_for: BenchFor) -> None:
    bench = await bench_for()
    now = bench.runtime.clock.now()
    ahead = (now + timedelta(minutes=30)).replace(second=0, microsecond=0)
    await bench.sql("INSERT INTO sweeps (started_at) VALUES (:at)", at=bench.stored(now - timedelta(hours=1)))
    await bench.sql(
        "INSERT INTO sweeps (slot, started_at) VALUES (:slot, :at)", slot=bench.stored(ahead), at=bench.stored(ahead)
    )
    assert await ReportStore(bench.runtime.database).overdue_sweeps("*/5 * * * *") is not None
    assert await sweep(bench.runtime, slot=now.replace(second=0, microsecond=0)) is not None
    # When that slot is reached, it does not count as swept already.
    assert await sweep(bench.runtime, slot=ahead) is not None
