"""All stored moments can be moved together, and no other value changes."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from worker.store.sandbox_time import set_back
from worker.store.sql.moments import NEVER
from worker.store.sql.tables import members, reconnections, sweeps, users

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


async def _read(bench: Any, column: Any) -> list[Any]:
    async with bench.runtime.database.engine.begin() as connection:
        return list((await connection.execute(select(column))).scalars())


async def test_everything_on_record_happened_earlier(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="DENIED", token_revoked_at=bench.moment(NOON))
    await bench.sql("UPDATE users SET opted_out_at = :at", at=bench.stored(NOON))
    await bench.sql(
        "INSERT INTO reconnections (member_guid, user_guid, state, reason, broken_since, opened_at, reopen_at) "
        "VALUES ('MBR-a', 'USR-a', 'exhausted', 'token_revoked', :noon, :noon, :never)",
        noon=bench.stored(NOON),
        never=bench.stored(NEVER),
    )
    await set_back(bench.runtime.database, timedelta(days=3, hours=1))
    earlier = datetime(2026, 11, 17, 11, tzinfo=UTC)
    for column in (
        users.c.opted_out_at,
        members.c.token_revoked_at,
        reconnections.c.broken_since,
        reconnections.c.opened_at,
    ):
        assert await _read(bench, column) == [earlier], column


async def test_never_and_what_was_not_set_stay(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.sql(
        "INSERT INTO reconnections (member_guid, user_guid, state, reason, broken_since, opened_at, reopen_at) "
        "VALUES ('MBR-a', 'USR-a', 'gone', 'error_code', :noon, :noon, :never)",
        noon=bench.stored(NOON),
        never=bench.stored(NEVER),
    )
    await set_back(bench.runtime.database, timedelta(days=1))
    assert await _read(bench, reconnections.c.reopen_at) == [NEVER]
    assert await _read(bench, reconnections.c.notified_at) == [None]


async def test_beats_minutes_are_names_and_stay(bench_for: Any) -> None:
    bench = await bench_for()
    for minute in range(3):
        at = bench.stored(NOON + timedelta(minutes=minute))
        await bench.sql("INSERT INTO sweeps (slot, started_at) VALUES (:at, :at)", at=at)
    await set_back(bench.runtime.database, timedelta(minutes=1))
    assert await _read(bench, sweeps.c.slot) == [NOON + timedelta(minutes=minute) for minute in range(3)]
    assert await _read(bench, sweeps.c.started_at) == [NOON + timedelta(minutes=minute) for minute in (-1, 0, 1)]


async def test_what_an_application_wrote_that_is_no_moment_stays(bench_for: Any) -> None:
    bench = await bench_for()
    if not bench.runtime.database.rows.is_sqlite:
        return  # PostgreSQL refuses such a value
    await bench.member("a", connection_status="DENIED", token_expires_at="next spring")
    await set_back(bench.runtime.database, timedelta(days=1))
    assert await bench.one("SELECT token_expires_at FROM members") == "next spring"
