"""Expiry dates that the worker reckons from how long a consent lasts, so that an application need not write dates."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text

from tests.integration.stages.links import link
from tests.integration.stages.test_notices import _hold_clock, _subjects
from worker.mx.answers import MemberRead, MemberState, Window
from worker.policy.consents import reckoned
from worker.stages.click import LeadsTo, click
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store.consents import Consents
from worker.store.reckoning import ReckoningStore
from worker.store.sql.tables import members, reconnections
from worker.store.sweeping import SweepStore
from worker.store.transactions.catch_up import CatchUpStore

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


async def _dates(bench: Any) -> dict[str, tuple[Any, Any]]:
    """By member: its expiry date, and the date that we reckoned."""
    m = members.c
    async with bench.runtime.database.engine.begin() as connection:
        rows = await connection.execute(select(m.member_guid, m.token_expires_at, m.expiry_reckoned))
        return {guid.removeprefix("MBR-"): (date, mark) for guid, date, mark in rows}


async def _institution(bench: Any, days: Any, code: str = "alder") -> None:
    await bench.sql("DELETE FROM institutions WHERE institution_code = :c", c=code)
    await bench.sql("INSERT INTO institutions (institution_code, consent_days) VALUES (:c, :d)", c=code, d=days)


async def _walk_again(bench: Any) -> None:
    await bench.sql("UPDATE reckonings SET known = 'other days'")
    await sweep(bench.runtime)


async def test_a_member_that_is_first_seen_gets_a_date_that_is_marked(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="CONNECTED")
    await bench.member("b", connection_status="CONNECTED", institution_code="birch")
    await bench.member("c", connection_status="CONNECTED", institution_code=None)
    await bench.member("d", connection_status="CONNECTED", is_oauth=False)
    await sweep(bench.runtime)
    assert set((await _dates(bench)).values()) == {(None, None)}
    await _institution(bench, 90)
    await sweep(bench.runtime)
    now, dates = bench.runtime.clock.now(), await _dates(bench)
    date, mark = dates.pop("a")
    assert date == mark
    assert timedelta(0) <= now + 90 * DAY - date < 60 * SECOND
    assert set(dates.values()) == {(None, None)}
    assert await ReckoningStore(bench.runtime.database).reckon(now) == 0  # no row is written again


async def test_an_own_date_wins_and_clears_the_mark_however_it_is_written(bench_for: Any) -> None:
    bench = await bench_for()
    own = datetime(2027, 3, 1, tzinfo=UTC)
    await bench.member("before", connection_status="CONNECTED", token_expires_at=bench.moment(own))
    await bench.member("after", connection_status="CONNECTED")
    await _institution(bench, 90)
    await sweep(bench.runtime)
    assert (await _dates(bench))["before"] == (own, None)
    assert (await _dates(bench))["after"][1] is not None
    await bench.sql("UPDATE members SET token_expires_at = :own WHERE member_guid = 'MBR-after'", own=bench.moment(own))
    for days in (200, 90, None):
        await _institution(bench, days)
        await sweep(bench.runtime)
        assert await _dates(bench) == {"before": (own, None), "after": (own, None)}
    # When the application empties its date, a date is reckoned again.
    await _institution(bench, 90)
    await bench.sql("UPDATE members SET token_expires_at = NULL WHERE member_guid = 'MBR-after'")
    await sweep(bench.runtime)
    date, mark = (await _dates(bench))["after"]
    assert date == mark
    assert date is not None


@pytest.mark.parametrize("wrong", [None, 0, -5, 99_999])
async def test_days_that_change_move_what_was_reckoned_and_unknown_days_take_it_back(
    bench_for: Any, wrong: Any
) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="CONNECTED")
    await _institution(bench, 90)
    await sweep(bench.runtime)
    first = (await _dates(bench))["a"][0]
    for days in (180, 30):
        await _institution(bench, days)
        await sweep(bench.runtime)
        date, mark = (await _dates(bench))["a"]
        assert date == mark
        assert abs(date - (first + (days - 90) * DAY)) < SECOND
    await _institution(bench, wrong)
    await sweep(bench.runtime)
    assert (await _dates(bench))["a"] == (None, None)


async def test_a_member_that_comes_back_through_us_is_reckoned_from_then(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "own": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_skip_aggregation=True)
        own = bench.runtime.clock.now() + 20 * DAY
        await bench.member("a", connection_status="DENIED")
        await bench.member("own", connection_status="DENIED", token_expires_at=bench.moment(own))
        await _institution(bench, 30)
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        long_ago = bench.stored(bench.runtime.clock.now() - 25 * DAY)
        await bench.sql("UPDATE members SET consent_from = :at WHERE member_guid = 'MBR-a'", at=long_ago)
        await bench.sql("UPDATE members SET token_expires_at = NULL WHERE member_guid = 'MBR-a'")
        await _walk_again(bench)
        now = bench.runtime.clock.now()
        assert abs((await _dates(bench))["a"][0] - (now + 5 * DAY)) < 60 * SECOND
        await sandbox.control(consent=["MBR-a", "MBR-own"])
        await bench.sql("UPDATE reconnections SET next_check_at = :at", at=long_ago)
        await verify(bench.runtime)
        assert set((await bench.states()).values()) == {"reconnected"}
        dates = await _dates(bench)
        assert dates["a"][0] == dates["a"][1]
        assert abs(dates["a"][0] - (bench.runtime.clock.now() + 30 * DAY)) < 60 * SECOND
        assert abs(dates["own"][0] - own) < SECOND
        assert dates["own"][1] is None


async def test_a_member_that_the_application_calls_well_again_is_reckoned_from_then(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="DENIED")
    await _institution(bench, 30)
    await sweep(bench.runtime)
    await bench.sql("UPDATE members SET consent_from = :at", at=bench.stored(bench.runtime.clock.now() - 25 * DAY))
    await _walk_again(bench)
    assert (await _dates(bench))["a"][0] < bench.runtime.clock.now() + 6 * DAY
    await bench.sql("UPDATE members SET connection_status = 'CONNECTED'")
    await sweep(bench.runtime)
    assert (await bench.states()) == {"MBR-a": "reconnected"}
    assert (await _dates(bench))["a"][0] > bench.runtime.clock.now() + 29 * DAY


async def test_a_reckoned_date_that_passes_tells_nobody_that_something_broke(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="CONNECTED")
    await _institution(bench, 30)
    await sweep(bench.runtime)
    first = (await _dates(bench))["a"][0]
    for after, expected in ((first + SECOND, first + 30 * DAY), (first + 95 * DAY, first + 125 * DAY)):
        _hold_clock(bench, after)
        await sweep(bench.runtime)
        date, mark = (await _dates(bench))["a"]
        assert date == mark
        assert abs(date - expected) < SECOND
    assert await bench.states() == {}


async def test_a_notice_needs_no_date_of_the_applications(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, expiry_notice_days="7,2")
        await bench.member("a", connection_status="CONNECTED", institution_name="Bank A")
        await _institution(bench, 30)
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        assert await sandbox.mails() == []
        date = (await _dates(bench))["a"][0]
        _hold_clock(bench, date - 7 * DAY + SECOND)
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        (subject,) = await _subjects(sandbox)
        assert "Bank A" in subject
        assert "reconnect" not in subject.lower()


async def test_a_wave_is_spread_over_the_days_before_and_others_are_told_on_their_day(bench_for: Any) -> None:
    bench = await bench_for(expiry_notice_days="14,3")
    date = bench.runtime.clock.now().replace(hour=12, minute=0) + 14 * DAY - 2 * SECOND
    rows = [
        {"member_guid": f"MBR-{n}", "user_guid": f"USR-{n}", "institution_code": code, "connection_status": "CONNECTED",
         "token_expires_at": date}
        for n, code in enumerate(["alder"] * 300 + ["birch"] * 20)
    ]  # fmt: skip
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(insert(members), rows)
    _hold_clock(bench, date - 14 * DAY + SECOND)
    await sweep(bench.runtime)
    now = date - 14 * DAY + SECOND
    r = reconnections.c
    async with bench.runtime.database.engine.begin() as connection:
        found = (await connection.execute(select(r.institution_code, r.next_attempt_at, r.wave))).all()
    assert all(at - now < SECOND for code, at, _ in found if code == "birch")
    days = Counter((at - now) // DAY for code, at, wave in found if code == "alder" and wave)
    assert set(days) == set(range(9))
    assert max(days.values()) < 60
    again = dict.fromkeys(range(9), 0)
    await sweep(bench.runtime)
    async with bench.runtime.database.engine.begin() as connection:
        for code, at in await connection.execute(select(r.institution_code, r.next_attempt_at)):
            if code == "alder":
                again[(at - now) // DAY] += 1
    assert again == days


async def test_the_walk_goes_on_page_by_page_and_sweep_by_sweep(bench_for: Any) -> None:
    bench = await bench_for()
    for name in "abcdefghij":
        await bench.member(name, connection_status="CONNECTED")
    await _institution(bench, 30)
    store, now = ReckoningStore(bench.runtime.database), bench.runtime.clock.now()
    assert [await store.reckon(now, page=3, seconds=0) for _ in range(5)] == [3, 3, 3, 1, 0]
    assert all(date == mark is not None for date, mark in (await _dates(bench)).values())


async def test_a_walk_begins_when_days_change_and_once_a_day_and_no_sweep_walks_otherwise(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="CONNECTED")
    await _institution(bench, 30)
    store, now = ReckoningStore(bench.runtime.database), bench.runtime.clock.now()
    assert await store.reckon(now) == 1
    for name in "bcd":
        await bench.member(name, connection_status="CONNECTED")
    walks: list[str] = []
    listen = partial(_note_walks, walks)
    event.listen(bench.runtime.database.engine.sync_engine, "before_cursor_execute", listen)
    for hours in (1, 23):
        assert await store.reckon(now + hours * timedelta(hours=1)) == 0
    assert walks == []
    assert await store.reckon(now + DAY) == 3
    assert walks != []
    await _institution(bench, 60)
    # The days change again during a walk: the walk starts again.
    assert await store.reckon(now + DAY, page=2, seconds=0) == 2
    await _institution(bench, 90)
    assert [await store.reckon(now + DAY, page=2, seconds=0) for _ in range(3)] == [2, 2, 0]
    first, mark = (await _dates(bench))["a"]
    assert abs(first - (now + 90 * DAY)) < SECOND
    assert first == mark


def _note_walks(walks: list[str], _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    if "FROM members" in statement and "members.member_guid >" in statement:
        walks.append(statement)


class Answering:
    """MX without a network: a window for everybody, and one answer about every member."""

    def __init__(self, aggregated_at: datetime) -> None:
        self.member = MemberState(guid="MBR-a", connection_status="CONNECTED", successfully_aggregated_at=aggregated_at)

    async def oauth_window(self, _user: str, _member: str) -> Any:
        return Window(uri="https://bank.example/oauth?state=1", member=self.member)

    async def urgent_window(self, _user: str, _member: str, *, within: float) -> Any:
        return Window(uri="https://bank.example/oauth?state=2", member=self.member)

    async def read_member(self, _user: str, _member: str) -> Any:
        return MemberRead(member=self.member)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("own", [False, True])
async def test_a_consent_that_is_renewed_by_a_click_is_known_by_the_aggregation_after_it(
    bench_for: Any, own: bool
) -> None:
    bench = await bench_for(expiry_notice_days="14,3", public_base_url="https://reconnect.example.com")
    await bench.member("a", connection_status="CONNECTED", institution_name="Bank A")
    await _institution(bench, 10)
    now = bench.runtime.clock.now()
    if own:
        await bench.sql("UPDATE members SET token_expires_at = :at", at=bench.moment(now + 10 * DAY))
    await bench.runtime.mx.close()
    bench.runtime.mx = mx = Answering(now - DAY)
    for stage in (sweep, fetch):
        await stage(bench.runtime)
    id_ = await bench.one("SELECT id FROM reconnections")
    await bench.sql(
        "UPDATE reconnections SET state = 'notified', next_attempt_at = :at, next_check_at = NULL",
        at=bench.stored(now + 7 * DAY),
    )
    token = await link(bench, "a")
    assert isinstance(await click(bench.runtime, token, reconnection_id=id_, nonce="n" * 16), LeadsTo)
    clicked_at = bench.runtime.clock.now()

    async def check(after: timedelta) -> Any:
        _hold_clock(bench, clicked_at + after)
        await verify(bench.runtime)
        async with bench.runtime.database.engine.begin() as connection:
            return (await connection.execute(select(reconnections))).mappings().one()

    row = await check(30 * SECOND)
    assert row["state"] == "notified"
    assert (row["next_check_at"] is None) is own  # an application that writes dates tells us itself
    mx.member = MemberState(
        guid="MBR-a", connection_status="CONNECTED", successfully_aggregated_at=clicked_at + 40 * SECOND
    )
    row = await check(60 * SECOND)
    if own:
        assert row["state"] == "notified"
        return
    assert (row["state"], row["outcome"]) == ("reconnected", "renewed")
    date, mark = (await _dates(bench))["a"]
    assert date == mark
    assert abs(date - (clicked_at + 10 * DAY)) < 120 * SECOND


async def test_a_press_that_nothing_follows_leaves_the_notice_as_it_is(bench_for: Any) -> None:
    bench = await bench_for(expiry_notice_days="14,3", public_base_url="https://reconnect.example.com")
    await bench.member("a", connection_status="CONNECTED")
    await _institution(bench, 10)
    await bench.runtime.mx.close()
    bench.runtime.mx = Answering(bench.runtime.clock.now() - DAY)
    for stage in (sweep, fetch):
        await stage(bench.runtime)
    clicked_at = bench.runtime.clock.now()
    await bench.sql(
        "UPDATE reconnections SET state = 'notified', clicked_at = :at, next_check_at = :at",
        at=bench.stored(clicked_at),
    )
    moments = []
    for seconds in (25, 45, 70, 130, 310, 610):
        _hold_clock(bench, clicked_at + seconds * SECOND)
        await verify(bench.runtime)
        async with bench.runtime.database.engine.begin() as connection:
            row = (await connection.execute(select(reconnections))).mappings().one()
        assert row["state"] == "notified"
        moments.append(row["next_check_at"] and round((row["next_check_at"] - clicked_at) / SECOND))
    assert moments == [40, 60, 120, 300, 600, None]


async def test_a_webhook_between_two_sweeps_takes_no_reckoned_date_that_passed_for_a_break(bench_for: Any) -> None:
    bench = await bench_for()
    for name in ("a", "own"):
        await bench.member(name, connection_status="CONNECTED")
    await _institution(bench, 30)
    await sweep(bench.runtime)
    later_on = (await _dates(bench))["a"][0] + SECOND
    await bench.sql(
        "UPDATE members SET token_expires_at = :at WHERE member_guid = 'MBR-own'", at=bench.moment(later_on - DAY)
    )
    store = CatchUpStore(bench.runtime.database, statuses=("DENIED",))
    assert await store.catch_up(["MBR-a", "MBR-own"], later_on, grace_seconds=0) == (0, 1)
    assert await bench.states() == {"MBR-own": "due"}


async def test_the_database_reckons_as_the_rule_says(bench_for: Any) -> None:
    bench = await bench_for()
    now = bench.runtime.clock.now()
    began = {f"{days}-{ago}": (days, now - ago * DAY) for days in (1, 90, 365) for ago in (0, 1, 89, 90, 364, 800)}
    for name, (days, start) in began.items():
        at = bench.stored(start)
        await bench.member(name, connection_status="CONNECTED", institution_code=f"of-{days}", consent_from=at)
    for days in (1, 90, 365):
        await _institution(bench, days, f"of-{days}")
    _hold_clock(bench, now)
    await sweep(bench.runtime)
    dates = await _dates(bench)
    assert {
        name: dates[name][0] - reckoned(start, days, now=now)
        for name, (days, start) in began.items()
        if abs(dates[name][0] - reckoned(start, days, now=now)) > SECOND / 10
    } == {}


@pytest.mark.each_database
@pytest.mark.parametrize("nothing", [None, "", " \t", "\u00a0"])
async def test_a_reckoned_date_that_the_application_empties_stands_again_before_a_notice_is_looked_for(
    bench_for: Any, nothing: str | None
) -> None:
    bench = await bench_for(expiry_notice_days="7,2")
    if nothing is not None and not bench.runtime.database.rows.is_sqlite:
        pytest.skip("PostgreSQL's column takes no text")
    await bench.member("a", connection_status="CONNECTED")
    await _institution(bench, 30)
    await sweep(bench.runtime)
    date = (await _dates(bench))["a"][0]
    await bench.sql("UPDATE members SET token_expires_at = :nothing", nothing=nothing)
    _hold_clock(bench, date - 7 * DAY + SECOND)
    await bench.sql("UPDATE reckonings SET started_at = :now", now=bench.stored(bench.runtime.clock.now()))  # no walk
    await sweep(bench.runtime)
    assert (await _dates(bench))["a"] == (date, date)
    assert await bench.states() == {"MBR-a": "due"}


async def test_dates_that_were_emptied_are_found_by_an_index(bench_for: Any) -> None:
    bench = await bench_for()
    now, rows = bench.runtime.clock.now(), bench.runtime.database.rows
    many = [
        {"member_guid": f"MBR-{n}", "user_guid": "USR-1", "token_expires_at": now, "expiry_reckoned": now}
        for n in range(5_000)
    ]
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(insert(members), many)
        await connection.execute(text("ANALYZE"))
        plans: list[str] = []

        @event.listens_for(connection.sync_connection, "before_cursor_execute")
        def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if rows.is_sqlite else ''}{statement}", parameters)
            plans.append("\n".join(" ".join(map(str, row)) for row in cursor.fetchall()))

        assert await rows.part(Consents).due(connection, now - DAY, n=10_000) == []
    assert "ix_members_emptied" in plans[0]
    assert "ix_members_reckoned" in plans[1]


async def _emptied(bench: Any, count: int) -> tuple[datetime, list[str]]:
    """Write ``count`` members whose reckoned date an application has emptied; return that date and their GUIDs."""
    await _institution(bench, 90)
    await sweep(bench.runtime)
    date = (bench.runtime.clock.now() + 60 * DAY).replace(microsecond=0)
    guids = [f"MBR-{n:05}" for n in range(count)]
    columns = {"user_guid": "USR-1", "institution_code": "alder", "connection_status": "CONNECTED"}
    async with bench.runtime.database.engine.begin() as connection:
        rows = [{"member_guid": guid, "expiry_reckoned": date, "consent_from": date - 90 * DAY} for guid in guids]
        await connection.execute(insert(members), [columns | row for row in rows])
    return date, guids


@pytest.mark.parametrize("passed", [False, True])
@pytest.mark.each_database
async def test_many_dates_are_written_in_small_transactions(bench_for: Any, passed: bool) -> None:
    bench = await bench_for()
    date, guids = await _emptied(bench, 3_000)
    now = date + SECOND if passed else bench.runtime.clock.now()
    if passed:
        await bench.sql("UPDATE members SET token_expires_at = expiry_reckoned")
    await bench.sql("UPDATE reckonings SET started_at = :now", now=bench.stored(now))  # no walk
    engine, written = bench.runtime.database.engine.sync_engine, [0]

    @event.listens_for(engine, "after_cursor_execute")
    def count(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE members"):
            written[-1] += cursor.rowcount

    @event.listens_for(engine, "commit")
    def begin_anew(_connection: Any) -> None:
        written.append(0)

    assert await ReckoningStore(bench.runtime.database).reckon(now) == 3_000
    assert [count for count in written if count] == [1_000] * 3
    expected = date + 90 * DAY if passed else date
    assert await _dates(bench) == {guid.removeprefix("MBR-"): (expected, expected) for guid in guids}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite has one writer at a time
async def test_a_date_that_a_writer_holds_is_left_to_the_next_sweep_and_neither_waits(bench_for: Any) -> None:
    bench = await bench_for()
    date, guids = await _emptied(bench, 3)
    now, store = bench.runtime.clock.now(), ReckoningStore(bench.runtime.database)
    rename = text("UPDATE members SET institution_name = 'Alder' WHERE member_guid = :guid")
    async with (
        bench.runtime.database.engine.connect() as writer
    ):  # an application's long transaction, which writes the rows in descending order
        await writer.execute(rename, {"guid": guids[1]})
        async with asyncio.timeout(10):
            assert await store.reckon(now) == 2
            await writer.execute(rename, {"guid": guids[0]})
        assert [at for at, _ in (await _dates(bench)).values()].count(None) == 1
        await writer.commit()
    assert await store.reckon(now) == 1
    assert set((await _dates(bench)).values()) == {(date, date)}


async def test_more_than_a_page_of_emptied_dates_is_restored_by_one_sweep(
    bench_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await bench_for()
    date, _ = await _emptied(bench, 25)
    monkeypatch.setattr("worker.store.reckoning.PAGE", 10)
    assert await ReckoningStore(bench.runtime.database).reckon(bench.runtime.clock.now()) == 25
    assert set((await _dates(bench)).values()) == {(date, date)}


@pytest.mark.parametrize("first", ["fetch", "webhook"])
async def test_a_reckoned_date_that_the_application_empties_ends_no_notice_whoever_comes_before_the_sweep(
    bench_for: Any, sandbox_for: Any, first: str
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, expiry_notice_days="7,2")
        await bench.member("a", connection_status="CONNECTED")
        await _institution(bench, 30)
        await sweep(bench.runtime)
        _hold_clock(bench, (await _dates(bench))["a"][0] - 7 * DAY + SECOND)
        await sweep(bench.runtime)
        assert await bench.states() == {"MBR-a": "due"}
        await bench.sql("UPDATE members SET token_expires_at = NULL")  # a nightly write of all columns
        if first == "webhook":
            store = CatchUpStore(bench.runtime.database, statuses=("DENIED",), notice_days=(7, 2))
            await store.catch_up(["MBR-a"], bench.runtime.clock.now(), grace_seconds=0)
        for stage in (fetch, sweep, fetch, deliver):
            await stage(bench.runtime)
        assert await bench.states() == {"MBR-a": "notified"}
        assert len(await sandbox.mails()) == 1


async def test_a_reckoned_date_that_passes_before_a_sweep_is_no_break_either(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="CONNECTED")
    await _institution(bench, 30)
    await sweep(bench.runtime)
    passed = (await _dates(bench))["a"][0] + SECOND
    store = SweepStore(bench.runtime.database, statuses=("DENIED",))
    assert sum((await store.would_open(passed)).values()) == 0
    assert await store.would_open_for("MBR-a", passed) is None


@pytest.mark.parametrize("days", [30, 365, None])
async def test_a_notice_that_nobody_followed_is_not_called_renewed(bench_for: Any, sandbox_for: Any, days: int) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, expiry_notice_days="7,2")
        await bench.member("a", connection_status="CONNECTED")
        await _institution(bench, 30)
        await sweep(bench.runtime)
        date = (await _dates(bench))["a"][0]
        _hold_clock(bench, date - 7 * DAY + SECOND)
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        if days == 30:
            _hold_clock(bench, date + SECOND)  # the reckoned date passes
        else:
            await bench.sql("UPDATE institutions SET consent_days = :days", days=days)
        await sweep(bench.runtime)
        assert [tuple(row) for row in await bench.sql("SELECT state, outcome FROM reconnections")] == [
            ("cancelled", "expiry_moved")
        ]
