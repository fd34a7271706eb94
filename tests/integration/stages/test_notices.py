"""Notices before a token expires: sent in time, once for each notice day, and not if the token was renewed or broke."""

import email
import re
from datetime import timedelta
from email import policy
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store import sweeping
from worker.store.reconnections.notices import Notices
from worker.store.sql.tables import members
from worker.store.sweeping import SweepStore

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
ON = {"expiry_notice_days": "7,2"}


def _hold_clock(bench: Any, moment: Any) -> None:
    """Set the worker's clock to ``moment``. From then on the stages do not set it from the database's clock."""

    async def set_clock() -> Any:
        return bench.runtime.clock.now()

    bench.runtime.clock.set(moment)
    bench.runtime.set_clock = set_clock


async def _expiring(bench: Any, name: str, after: timedelta, **columns: Any) -> None:
    at = bench.moment(bench.runtime.clock.now() + after)
    values = {"connection_status": "CONNECTED", "institution_name": f"Bank {name.upper()}"} | columns
    await bench.member(name, token_expires_at=at, **values)


async def _move(bench: Any, name: str, after: timedelta) -> None:
    at = bench.moment(bench.runtime.clock.now() + after)
    await bench.sql("UPDATE members SET token_expires_at = :at WHERE member_guid = :m", at=at, m=f"MBR-{name}")


async def _run(bench: Any) -> None:
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    await deliver(bench.runtime)


async def _episodes(bench: Any) -> list[tuple[Any, ...]]:
    rows = await bench.sql("SELECT reason, state, outcome FROM reconnections ORDER BY id")
    return [tuple(row) for row in rows]


async def _subjects(sandbox: Any) -> list[str]:
    """The subjects of all mails that arrived, oldest first."""
    subjects = []
    for mail in sorted(await sandbox.mails(), key=lambda mail: mail["number"]):
        async with sandbox.session.get(f"{sandbox.addresses.base_url}/sandbox/mail/{mail['number']}.eml") as response:
            subjects.append(email.message_from_bytes(await response.read(), policy=policy.default)["Subject"])
    return subjects


async def test_unless_asked_for_nobody_is_told_before_something_broke(bench_for: Any) -> None:
    bench = await bench_for()
    await _expiring(bench, "a", HOUR)
    report = await sweep(bench.runtime)
    assert report is not None
    assert not report.did_something


async def test_only_members_that_are_well_and_near_their_date_are_worth_a_notice(bench_for: Any) -> None:
    bench = await bench_for(**ON)
    await _expiring(bench, "near", 7 * DAY - HOUR)
    await _expiring(bench, "blank", DAY, connection_status=None)
    await _expiring(bench, "far", 7 * DAY + HOUR)
    await _expiring(bench, "expired", -HOUR)
    await _expiring(bench, "denied", DAY, connection_status="DENIED")
    await _expiring(bench, "challenged", DAY, connection_status="CHALLENGED")
    await _expiring(bench, "no_oauth", DAY, is_oauth=False)
    store = SweepStore(bench.runtime.database, statuses=bench.runtime.settings.reconnect_statuses, notice_days=(7, 2))
    would = await store.would_open(bench.runtime.clock.now())
    assert would["expires_soon"] == 2
    await sweep(bench.runtime)
    rows = await bench.sql("SELECT member_guid, reason FROM reconnections")
    assert {tuple(row) for row in rows} == {
        ("MBR-near", "expires_soon"),
        ("MBR-blank", "expires_soon"),
        ("MBR-expired", "token_expired"),
        ("MBR-denied", "connection_status"),
    }
    defer = await sweep(bench.runtime)
    assert defer is not None
    assert not defer.did_something


async def test_a_customer_is_told_on_the_days_and_after_the_expiry_as_of_any_break(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON, message_caps="1/24h,3/7d")
        began = bench.runtime.clock.now()
        await _expiring(bench, "a", 7 * DAY + timedelta(minutes=30))
        told = {}
        # The stages run shortly before and after each moment at which a message is due. A message at a wrong moment
        # leaves in the next of these runs, at an hour that is not expected below.
        for hour in (0, 4, 8, 24 * 5, 24 * 5 + 4, 24 * 7, 24 * 7 + 4, 24 * 10 + 4, 24 * 10 + 8):
            _hold_clock(bench, began + hour * HOUR)
            before = len(await sandbox.mails())
            await _run(bench)
            after = await _subjects(sandbox)
            assert len(after) <= before + 1
            if len(after) > before:
                told[hour] = after[-1]
        assert list(told) == [
            4,
            24 * 5 + 4,
            24 * 7 + 4,
            24 * 10 + 8,
        ]  # the last is due three days and some milliseconds after the third
        first, second, third, _ = told.values()
        assert first == second
        assert first.startswith("Ledgerly will stop receiving data from Bank A on ")
        assert third == "Ledgerly no longer receives data from Bank A"
        assert await _episodes(bench) == [
            ("expires_soon", "cancelled", "expired_after_notice"),
            ("token_expired", "notified", "window"),
        ]
        spoken = await bench.sql(
            "SELECT reconnection_id, step FROM notification_reconnections ORDER BY notification_id"
        )
        assert len({tuple(row) for row in spoken}) == 4


async def test_that_mx_finds_the_member_connected_and_fresh_does_not_end_a_notice(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["ok"]}, aggregation_seconds=0.0) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON)
        await _expiring(bench, "a", 6 * DAY)
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await sandbox.control(consent="MBR-a")
        _hold_clock(bench, bench.runtime.clock.now() + timedelta(minutes=2))  # deliver reads the member again
        await deliver(bench.runtime)
        assert await _episodes(bench) == [("expires_soon", "notified", "window")]
        assert len(await sandbox.mails()) == 1
        assert await bench.one("SELECT next_check_at FROM reconnections") is None
        _hold_clock(bench, bench.runtime.clock.now() + DAY)
        await verify(bench.runtime)
        assert await _episodes(bench) == [("expires_soon", "notified", "window")]
        _hold_clock(bench, bench.runtime.clock.now() + 3 * DAY)
        await _run(bench)
        assert await _episodes(bench) == [("expires_soon", "notified", "window")]
        assert len(await sandbox.mails()) == 2


async def test_found_late_a_notice_is_one_message(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON)
        await _expiring(bench, "a", 2 * DAY + 6 * HOUR)  # day 2 is six hours away: one notice serves both
        began = bench.runtime.clock.now()
        for hour in (0, 7, 42):
            _hold_clock(bench, began + hour * HOUR)
            await _run(bench)
        assert len(await sandbox.mails()) == 1
        assert await bench.one("SELECT next_attempt_at FROM reconnections") is None


async def test_a_renewed_token_ends_the_notice_and_takes_its_message_back(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON)
        await _expiring(bench, "a", DAY)
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await bench.one("SELECT state FROM notifications") == "pending"
        await _move(bench, "a", 90 * DAY)
        report = await sweep(bench.runtime)
        assert report is not None
        assert report.closed == 1
        assert await _episodes(bench) == [("expires_soon", "reconnected", "renewed")]
        assert await bench.one("SELECT state FROM notifications") == "cancelled"
        assert await bench.one("SELECT uri FROM windows") is None
        await deliver(bench.runtime)
        assert await sandbox.mails() == []


@pytest.mark.parametrize(
    ("stage", "change", "outcome"),
    [
        ("notified", "token_expires_at", "expired_after_notice"),
        ("due", "token_expires_at", "expired_after_notice"),
        ("ready", "token_revoked_at", "broke_after_notice"),
        ("due", "connection_status", "broke_after_notice"),
        ("notified", "connection_status", "broke_after_notice"),
    ],
)
async def test_what_breaks_ends_the_notice_and_opens_the_real_episode_in_one_sweep(
    bench_for: Any, sandbox_for: Any, stage: str, change: str, outcome: str
) -> None:
    reason = {"token_expires_at": "token_expired", "token_revoked_at": "token_revoked"}.get(change, change)
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON)
        await _expiring(bench, "a", DAY)
        await sweep(bench.runtime)
        if stage != "due":
            await fetch(bench.runtime)
        if stage == "notified":
            await deliver(bench.runtime)
        past = bench.moment(bench.runtime.clock.now() - timedelta(seconds=1))
        value = "DENIED" if change == "connection_status" else past
        await bench.sql(f"UPDATE members SET {change} = :value", value=value)
        report = await sweep(bench.runtime)
        assert report is not None
        assert (report.closed, report.opened) == (1, 1)
        assert [row[:2] for row in await _episodes(bench)] == [("expires_soon", "cancelled"), (reason, "due")]
        assert (await _episodes(bench))[0][2] == outcome
        assert await bench.one("SELECT count(*) FROM windows WHERE uri IS NOT NULL") == 0
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        subjects = await _subjects(sandbox)
        assert subjects[-1] == "Ledgerly no longer receives data from Bank A"
        assert len(subjects) == (2 if stage == "notified" else 1)


async def test_a_message_that_was_held_up_past_the_expiry_is_not_sent(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON)
        await _expiring(bench, "a", HOUR)
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        _hold_clock(bench, bench.runtime.clock.now() + 2 * HOUR)
        await deliver(bench.runtime)
        assert await sandbox.mails() == []
        assert await _episodes(bench) == [("expires_soon", "cancelled", "expired_after_notice")]
        await _run(bench)
        assert await _subjects(sandbox) == ["Ledgerly no longer receives data from Bank A"]


async def test_a_claim_finds_out_that_its_notice_is_over(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON)
        await _expiring(bench, "a", DAY)
        await sweep(bench.runtime)
        await _move(bench, "a", 90 * DAY)
        await fetch(bench.runtime)
        assert await _episodes(bench) == [("expires_soon", "reconnected", "renewed")]
        assert (await sandbox.get("/sandbox/ledger"))["windows_minted"] == 0


@pytest.mark.parametrize(
    ("moved", "ended", "opened"),
    [
        (timedelta(minutes=-50), None, 0),
        (timedelta(minutes=50), None, 0),
        (DAY, "renewed", 0),  # still within the notice days, but the user has just renewed: no new notice
        (-2 * DAY, "expiry_moved", 1),
    ],
)
async def test_a_date_that_moves_a_little_is_the_same_date(
    bench_for: Any, moved: timedelta, ended: str | None, opened: int
) -> None:
    bench = await bench_for(**ON)
    await _expiring(bench, "a", 4 * DAY)
    await sweep(bench.runtime)
    await _move(bench, "a", 4 * DAY + moved)
    for _ in range(2):
        await sweep(bench.runtime)
    reconnections = await _episodes(bench)
    assert reconnections[0][2] == ended
    assert len(reconnections) == 1 + opened


async def test_whoever_came_back_near_the_old_date_hears_no_more_of_it(bench_for: Any) -> None:
    bench = await bench_for(**ON)
    await _expiring(bench, "a", 4 * DAY, token_revoked_at=bench.moment(bench.runtime.clock.now()))
    await sweep(bench.runtime)
    await bench.sql("UPDATE members SET token_revoked_at = NULL")
    for _ in range(2):
        await sweep(bench.runtime)
    assert [row[:2] for row in await _episodes(bench)] == [("token_revoked", "reconnected")]


async def test_a_notice_that_was_set_aside_does_not_hold_up_the_break(bench_for: Any) -> None:
    bench = await bench_for(**ON)
    await _expiring(bench, "a", 4 * DAY)
    await sweep(bench.runtime)
    never = bench.stored(bench.runtime.clock.now().replace(year=9999))
    await bench.sql("UPDATE reconnections SET state = 'quarantined', closed_at = opened_at, reopen_at = :n", n=never)
    await bench.sql("UPDATE members SET connection_status = 'DENIED'")
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 1


async def test_switched_off_again_open_notices_end(bench_for: Any) -> None:
    bench = await bench_for(**ON)
    await _expiring(bench, "a", DAY)
    await sweep(bench.runtime)
    later = await bench_for()
    await sweep(later.runtime)
    assert await _episodes(later) == [("expires_soon", "cancelled", "notices_off")]


async def test_one_person_hears_of_the_broken_bank_first_and_of_the_other_another_day(
    bench_for: Any, sandbox_for: Any
) -> None:
    people = {name: {"user_guid": "USR-p", "script": ["ok"]} for name in ("a", "b")}
    async with sandbox_for(people) as sandbox:
        bench = await bench_for(**sandbox.settings, **ON)
        await _expiring(bench, "a", 6 * DAY, user="p")
        await bench.member("b", user="p", connection_status="DENIED", institution_name="Bank B")
        await _run(bench)
        assert await _subjects(sandbox) == ["Ledgerly no longer receives data from Bank B"]
        row = (await bench.sql("SELECT state, outcome FROM reconnections WHERE reason = 'expires_soon'"))[0]
        assert tuple(row) == ("due", "broken_member_first")
        _hold_clock(bench, bench.runtime.clock.now() + DAY + HOUR)
        await _run(bench)
        assert len(await sandbox.mails()) == 2
        assert (await _subjects(sandbox))[1].startswith("Ledgerly will stop receiving data from Bank A on ")


async def test_many_notices_at_once_are_no_outage(bench_for: Any) -> None:
    bench = await bench_for(**ON)
    past = bench.stored(bench.runtime.clock.now() - 10 * DAY)
    await bench.sql(
        "INSERT INTO reconnections (member_guid, user_guid, institution_code, state, reason, broken_since, opened_at, closed_at) "
        "VALUES ('MBR-x', 'USR-x', 'alder', 'reconnected', 'connection_status', :a, :a, :a)",
        a=past,
    )
    soon = bench.moment(bench.runtime.clock.now() + DAY)
    await bench.members(*(f"m{number}" for number in range(60)), connection_status="CONNECTED", token_expires_at=soon)
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 60
    assert await bench.one("SELECT count(*) FROM pauses") == 0


async def test_pages_cover_every_notice(bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PAGE", 7)
    bench = await bench_for(**ON)
    for number in range(20):
        await _expiring(bench, f"m{number}", (number % 3 + 1) * DAY)
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.opened == 20


async def test_a_sweep_reads_only_the_stretch_of_the_index_where_tokens_run_out_soon(bench_for: Any) -> None:
    bench = await bench_for(**ON)
    now, rows = bench.runtime.clock.now(), bench.runtime.database.rows
    many = [
        {"member_guid": f"MBR-{n}", "user_guid": f"USR-{n}", "connection_status": "CONNECTED",
         "token_expires_at": now + n * HOUR}
        for n in range(-1000, 9_000)
    ]  # fmt: skip
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(insert(members), many)
        await connection.execute(text("ANALYZE"))
        noticing = Notices(rows, statuses=("DENIED",), days=(7, 2))
        event.listen(connection.sync_connection, "before_cursor_execute", _explain, retval=True)
        found = await connection.execute(noticing.counting(), noticing.parameters(now))
        plan = "\n".join(" ".join(map(str, row)) for row in found)
    if rows.is_sqlite:
        assert "ix_members_expiring (token_expires_at>? AND token_expires_at<?)" in plan
    else:
        assert re.search(r"Index (Only )?Scan (using|on) ix_members_expiring", plan), plan
        assert re.search(r"Index Cond: .*token_expires_at > .*token_expires_at <= ", plan), plan
    assert "SCAN members" not in plan
    assert "Seq Scan on members" not in plan


def _explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    is_sqlite = connection.dialect.name == "sqlite"
    return f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{statement}", parameters
