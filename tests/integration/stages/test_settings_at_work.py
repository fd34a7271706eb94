"""The settings about when a user gets a message work as documented; ``0`` or an empty value switches each off."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def _hold_clock(bench: Any, moment: datetime) -> None:
    """Set the worker's clock to ``moment``. From then on the stages do not set it from the database's clock."""

    async def set_clock() -> Any:
        return bench.runtime.clock.now()

    bench.runtime.clock.set(moment)
    bench.runtime.set_clock = set_clock


async def _told_at(bench: Any, sandbox: Any, began: datetime, hours: Iterable[int]) -> list[int]:
    """Run the stages at these hours after ``began``; return the hours at which a mail arrived."""
    told = []
    for hour in hours:
        _hold_clock(bench, began + hour * HOUR)
        before = len(await sandbox.mails())
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        told += [hour] * (len(await sandbox.mails()) - before)
    return told


@pytest.mark.parametrize(("grace", "told"), [("6h", [6]), ("0", [0]), ("", [0])])
async def test_notify_after_is_a_grace_from_the_break(
    bench_for: Any, sandbox_for: Any, grace: str, told: list[int]
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, notify_after=grace)
        began = bench.runtime.clock.now()
        await bench.member("a", token_revoked_at=bench.moment(began))
        assert await _told_at(bench, sandbox, began, (0, 5, 6, 7)) == told


@pytest.mark.parametrize(("days", "told"), [("0,1,3", [0, 24, 72]), ("0", [0]), ("", [0])])
async def test_reminder_days_count_from_the_first_message_and_none_leaves_that_alone(
    bench_for: Any, sandbox_for: Any, days: str, told: list[int]
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, reminder_days=days)
        began = bench.runtime.clock.now()
        await bench.member("a", connection_status="DENIED")
        # The first message leaves some milliseconds after hour 0, so the reminders are due just after hours 24 and 72.
        found = await _told_at(bench, sandbox, began, (0, 23, 25, 71, 73, 24 * 11))
        assert [hour // 24 * 24 for hour in found] == told
        assert await bench.states() == {"MBR-a": "exhausted"}


def _night_from(now: datetime) -> str:
    """Quiet hours in UTC that began 15 minutes ago and last for three hours."""
    start = now - timedelta(minutes=15)
    return f"{start:%H:%M}-{start + 3 * HOUR:%H:%M}"


@pytest.mark.parametrize(
    ("quiet", "zones", "first"),
    [
        ("night", (None, "UTC"), 3),
        ("night", ("Etc/GMT-12", "UTC"), 0),
        ("night", ("UTC", "Etc/GMT-12"), 3),
        ("night", (None, "Etc/GMT-12"), 0),
        ("0", (None, "UTC"), 0),
        ("", (None, "UTC"), 0),
    ],
)
async def test_quiet_hours_are_those_of_the_persons_zone_or_of_time_zone(
    bench_for: Any, sandbox_for: Any, quiet: str, zones: tuple[str | None, str], first: int
) -> None:
    own_zone, default_zone = zones
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        now = (await bench_for()).runtime.clock.now()
        hours = _night_from(now) if quiet == "night" else quiet
        bench = await bench_for(**sandbox.settings, quiet_hours=hours, time_zone=default_zone)
        await bench.member("a", connection_status="DENIED")
        await bench.sql("UPDATE users SET timezone = :z", z=own_zone)
        assert await _told_at(bench, sandbox, now, (0, 2, 3)) == [first]


@pytest.mark.parametrize(("caps", "told"), [("1/24h", [0, 24]), ("2/24h", [0, 1]), ("0", [0, 1]), ("", [0, 1])])
async def test_message_caps_hold_over_everything_that_one_person_is_told(
    bench_for: Any, sandbox_for: Any, caps: str, told: list[int]
) -> None:
    people = {name: {"user_guid": "USR-p", "script": ["ok"]} for name in ("a", "b")}
    async with sandbox_for(people) as sandbox:
        bench = await bench_for(**sandbox.settings, message_caps=caps)
        began = bench.runtime.clock.now()
        await bench.member("a", user="p", connection_status="DENIED")
        found = await _told_at(bench, sandbox, began, range(1))
        await bench.member("b", user="p", connection_status="DENIED")
        found += await _told_at(bench, sandbox, began, (1, 23, 25))
        assert [min(24, hour) for hour in found] == told


@pytest.mark.parametrize(("age", "windows"), [("15m", 2), ("2h", 1), ("0", 1), ("", 1)])
async def test_a_uri_older_than_uri_max_age_is_minted_anew(
    bench_for: Any, sandbox_for: Any, age: str, windows: int
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, uri_max_age=age)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        _hold_clock(bench, bench.runtime.clock.now() + HOUR)
        await deliver(bench.runtime)
        assert len(await sandbox.mails()) == 1
        assert (await sandbox.get("/sandbox/ledger"))["windows_minted"] == windows
