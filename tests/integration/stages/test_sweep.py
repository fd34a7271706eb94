"""The sweep opens reconnections for broken members, recovers expired leases, and may run twice."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from worker.cli.explain import explanation
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store import sweeping


async def _end(bench: Any, state: str) -> None:
    await bench.sql(
        f"UPDATE reconnections SET state = '{state}', closed_at = opened_at, reopen_at = '9999-01-01 00:00:00'"
    )


async def test_every_reason_is_picked_up_and_the_healthy_are_left_alone(bench_for: Any) -> None:
    bench = await bench_for()
    now = bench.runtime.clock.now()
    past, future = (bench.moment(now + timedelta(days=days)) for days in (-1, 1))
    await bench.member("denied", connection_status="DENIED")
    await bench.member("revoked", token_revoked_at=past)
    await bench.member("expired", token_expires_at=past)
    await bench.member("error", error_code=2004, connection_status="CONNECTED")
    await bench.member("healthy", connection_status="CONNECTED", token_expires_at=future)
    await bench.member("no_oauth", connection_status="DENIED", is_oauth=False)
    await bench.member("blank")
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 4
    rows = await bench.sql("SELECT member_guid, reason, state FROM reconnections")
    assert {tuple(row) for row in rows} == {
        ("MBR-denied", "connection_status", "due"),
        ("MBR-revoked", "token_revoked", "due"),
        ("MBR-expired", "token_expired", "due"),
        ("MBR-error", "error_code", "due"),
    }
    assert ("fetch", 1) in bench.woken


async def test_a_second_sweep_right_after_does_nothing(bench_for: Any) -> None:
    bench = await bench_for()
    for number in range(5):
        await bench.member(f"m{number}", connection_status="DENIED")
    first = await sweep(bench.runtime)
    second = await sweep(bench.runtime)
    assert first is not None
    assert second is not None
    assert first.opened == 5
    assert not second.did_something


async def _written_for(bench: Any, user: str) -> None:
    await bench.sql("INSERT INTO users (user_guid, email) VALUES (:u, :e)", u=f"USR-{user}", e=f"{user}@mail.example")
    await bench.sql("UPDATE members SET user_guid = :u", u=f"USR-{user}")


async def _all(bench: Any) -> list[tuple[str, str, str | None]]:
    return [tuple(row) for row in await bench.sql("SELECT user_guid, state, outcome FROM reconnections ORDER BY id")]


CHANGED = [("USR-wrong", "cancelled", "user_changed"), ("USR-right", "due", None)]


@pytest.mark.each_database
async def test_a_row_that_names_another_user_is_told_to_that_user_alone(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {"user_guid": "USR-right", "connection_status": "DENIED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", user="wrong", connection_status="DENIED")
        await sweep(bench.runtime)
        await _written_for(bench, "right")
        assert (await explanation(bench.runtime, "MBR-a"))["next"].startswith("the next sweep ends it as cancelled")
        report = await sweep(bench.runtime)
        assert report is not None
        assert (report.closed, report.opened) == (1, 1)
        assert await _all(bench) == CHANGED
        for stage in (fetch, deliver):
            await stage(bench.runtime)
        assert [mail["recipients"] for mail in await sandbox.mails()] == [["right@mail.example"]]
        assert await bench.sql("SELECT user_guid, state FROM notifications") == [("USR-right", "sent")]
        report = await sweep(bench.runtime)
        assert report is not None
        assert not report.opened + report.closed


@pytest.mark.each_database
async def test_what_the_first_user_was_given_up_for_does_not_silence_the_other_one(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", user="wrong", connection_status="DENIED")
    await sweep(bench.runtime)
    await _end(bench, "gone")
    await _written_for(bench, "right")
    await sweep(bench.runtime)
    assert await _all(bench) == [("USR-wrong", "gone", None), ("USR-right", "due", None)]


@pytest.mark.each_database
async def test_one_that_is_leased_is_given_to_the_other_user_once_it_is_free(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", user="wrong", connection_status="DENIED")
    await sweep(bench.runtime)
    lease = bench.stored(bench.runtime.clock.now() + timedelta(hours=1))
    await bench.sql("UPDATE reconnections SET state = 'leased', lease_expires_at = :at", at=lease)
    await _written_for(bench, "right")
    await sweep(bench.runtime)
    assert await _all(bench) == [("USR-wrong", "leased", None)]
    await bench.sql("UPDATE reconnections SET state = 'due', lease_expires_at = NULL")
    await sweep(bench.runtime)
    assert await _all(bench) == CHANGED


async def test_fetch_asks_mx_for_nobody_whose_row_names_another_user(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", user="wrong", connection_status="DENIED")
    await sweep(bench.runtime)
    await _written_for(bench, "right")
    await fetch(bench.runtime)  # before the next sweep
    assert await _all(bench) == CHANGED[:1]
    await sweep(bench.runtime)
    assert await _all(bench) == CHANGED


@pytest.mark.each_database
async def test_a_notice_is_the_other_users_too_and_the_first_ones_again_if_the_row_is_put_back(bench_for: Any) -> None:
    bench = await bench_for(expiry_notice_days="7")
    soon = bench.moment(bench.runtime.clock.now() + timedelta(days=5))
    await bench.member("a", user="wrong", connection_status="CONNECTED", token_expires_at=soon)
    await sweep(bench.runtime)
    await _written_for(bench, "right")
    await sweep(bench.runtime)
    assert await _all(bench) == CHANGED
    await bench.sql("UPDATE members SET user_guid = 'USR-wrong'")
    await sweep(bench.runtime)
    assert await _all(bench) == [
        CHANGED[0],
        ("USR-right", "cancelled", "user_changed"),
        ("USR-wrong", "due", None),
    ]


async def test_sweeps_at_once_open_nothing_twice(bench_for: Any) -> None:
    benches = [await bench_for() for _ in range(4)]
    await benches[0].members(*(f"m{number}" for number in range(50)), connection_status="DENIED")
    reports = await asyncio.gather(*(sweep(bench.runtime) for bench in benches for _ in range(2)))
    assert sum(report.opened for report in reports if report) == 50
    assert await benches[0].one("SELECT count(*) FROM reconnections") == 50


async def test_two_beats_in_one_slot_sweep_once(bench_for: Any) -> None:
    bench = await bench_for()
    slot = bench.runtime.clock.now().replace(second=0, microsecond=0)
    assert await sweep(bench.runtime, slot=slot) is not None
    assert await sweep(bench.runtime, slot=slot) is None
    assert await sweep(bench.runtime, slot=slot + timedelta(minutes=1)) is not None


async def test_pages_cover_every_member(bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PAGE", 7)
    bench = await bench_for()
    moment = bench.moment(bench.runtime.clock.now() - timedelta(hours=1))
    await bench.members(*(f"denied{number:02}" for number in range(20)), connection_status="DENIED")
    await bench.members(*(f"expired{number:02}" for number in range(20)), token_expires_at=moment)
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 40


async def test_grace_is_kept_from_the_break_on(bench_for: Any) -> None:
    bench = await bench_for(notify_after="15m")
    now = bench.runtime.clock.now()
    await bench.member("fresh", token_revoked_at=bench.moment(now - timedelta(minutes=5)))
    await bench.member("old", token_revoked_at=bench.moment(now - timedelta(days=5)))
    await bench.member("unseen", connection_status="DENIED")
    await sweep(bench.runtime)
    from worker.store.queries.reports import ReportStore

    due = {}
    for name in ("fresh", "old", "unseen"):
        found = await ReportStore(bench.runtime.database).member(f"MBR-{name}")
        assert found is not None
        due[name] = found["reconnections"][0]["next_attempt_at"] - now
    assert timedelta(minutes=9) < due["fresh"] < timedelta(minutes=11)
    assert due["old"] < timedelta(seconds=30)
    assert timedelta(minutes=14) < due["unseen"] < timedelta(minutes=16)


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ("UPDATE members SET connection_status = 'CONNECTED'", "reconnected"),
        ("UPDATE members SET connection_status = 'CHALLENGED'", "cancelled"),
        ("DELETE FROM members", "gone"),
    ],
)
async def test_what_is_broken_no_more_is_closed(bench_for: Any, change: str, ends: str) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    await sweep(bench.runtime)
    await bench.sql(change)
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.closed == 1
    assert await bench.states() == {"MBR-m": ends}


@pytest.mark.parametrize(
    "database_url", ["postgresql"], indirect=True
)  # SQLite does not count how often an index is searched
async def test_members_that_are_broken_still_are_not_looked_up_by_their_primary_key(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.sql(
        "INSERT INTO members (member_guid, user_guid, connection_status) SELECT 'MBR-' || i, 'USR-' || i, "
        "CASE WHEN i % 20 = 0 THEN 'DENIED' ELSE 'CONNECTED' END FROM generate_series(1, 20000) i"
    )
    await bench.sql("ANALYZE members")
    searched = []
    for opened in (1000, 0):
        report = await sweep(bench.runtime)
        assert report is not None
        assert (report.opened, report.closed) == (opened, 0)
        await bench.sql("SELECT pg_stat_force_next_flush()")
        searched.append(await bench.one("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'pk_members'"))
    assert searched[1] - searched[0] < 10


async def test_a_member_that_breaks_again_after_a_reconnection_gets_a_new_episode(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    for status in ("DENIED", "CONNECTED", "DENIED"):
        await bench.sql("UPDATE members SET connection_status = :s", s=status)
        await sweep(bench.runtime)
    rows = await bench.sql("SELECT state FROM reconnections ORDER BY id")
    assert [row[0] for row in rows] == ["reconnected", "due"]


@pytest.mark.parametrize("state", ["exhausted", "gone", "quarantined"])
async def test_what_was_given_up_rests_until_it_was_well_or_broke_anew(bench_for: Any, state: str) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    await sweep(bench.runtime)
    await _end(bench, state)
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 0
    # The member works in between, then breaks again.
    await bench.sql("UPDATE members SET connection_status = 'CONNECTED'")
    await sweep(bench.runtime)
    await bench.sql("UPDATE members SET connection_status = 'DENIED'")
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 1


async def test_a_newer_revocation_is_a_new_break_even_after_exhaustion(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("m", connection_status="DENIED")
    await sweep(bench.runtime)
    await _end(bench, "exhausted")
    moment = bench.runtime.clock.now() + timedelta(seconds=1)
    await bench.sql(f"UPDATE members SET token_revoked_at = '{moment.isoformat(' ')}'")
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 1


async def test_expired_leases_go_back_to_due_with_the_epoch_raised(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("dead", connection_status="DENIED")
    await bench.member("alive", connection_status="DENIED")
    await sweep(bench.runtime)
    await bench.sql(
        "UPDATE reconnections SET state = 'leased', epoch = 3, lease_worker = 'x', lease_expires_at = '2099-01-01 00:00:00'"
    )
    await bench.sql("UPDATE reconnections SET lease_expires_at = '2020-01-01 00:00:00' WHERE member_guid = 'MBR-dead'")
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.recovered == 1
    rows = await bench.sql("SELECT member_guid, state, epoch, lost_leases, attempts FROM reconnections")
    assert {tuple(row) for row in rows} == {("MBR-dead", "due", 4, 1, 0), ("MBR-alive", "leased", 3, 0, 0)}


async def test_reminders_become_due_and_the_last_one_unheard_ends_it(bench_for: Any) -> None:
    bench = await bench_for(reminder_days="0,3,7")
    cases = {"soon": (1, "2099"), "now": (1, "2020"), "over": (3, "2020")}
    for name in cases:
        await bench.member(name, connection_status="DENIED")
    await sweep(bench.runtime)
    for name, (step, year) in cases.items():
        await bench.sql(
            f"UPDATE reconnections SET state = 'notified', step = {step}, next_attempt_at = '{year}-01-01 00:00:00' "
            f"WHERE member_guid = 'MBR-{name}'"
        )
    report = await sweep(bench.runtime)
    assert report is not None
    assert (report.reminded, report.exhausted) == (1, 1)
    assert await bench.states() == {"MBR-soon": "notified", "MBR-now": "due", "MBR-over": "exhausted"}


async def test_workers_are_woken_for_the_slices_there_are_and_for_none_when_there_are_none(bench_for: Any) -> None:
    bench = await bench_for(batch_size=10)
    await sweep(bench.runtime)
    assert bench.woken == []
    await bench.members(*(f"m{number}" for number in range(25)), connection_status="DENIED")
    await sweep(bench.runtime)
    assert bench.woken == [("fetch", 3)]
