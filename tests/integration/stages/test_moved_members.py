"""A member that MX moved to another GUID is still one member: MX is asked for the new GUID, and one message is sent."""

from datetime import timedelta
from typing import Any

import pytest

from tests.integration.stages.links import reconnection
from tests.integration.stages.test_hints import _read_again_soon, aggregation, hint, status
from tests.integration.stages.test_sync import bank, everything
from worker.cli.explain import explanation
from worker.mx.answers import Gone
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.hints import hints
from worker.stages.retention import retain
from worker.stages.sweep import sweep
from worker.stages.sync_one import sync_member
from worker.store.from_mx.answers import MxMember
from worker.store.from_mx.members import MxMembers


def _gone_at_mx(bench: Any, guid: str) -> list[str]:
    """Let MX answer 404 for this GUID from here on; return the list to which each GUID that MX is asked for is added."""
    mx, asked = bench.runtime.mx, []

    def in_place_of(real: Any) -> Any:
        async def ask(user: str, member: str) -> Any:
            asked.append(member)
            return Gone() if member == guid else await real(user, member)

        return ask

    mx.read_member, mx.oauth_window = in_place_of(mx.read_member), in_place_of(mx.oauth_window)
    return asked


OLD = {"script": ["moved:MBR-new", "ok"], "connection_status": "DENIED"}


async def test_a_member_that_moved_and_breaks_again_is_asked_for_under_its_new_guid(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"old": OLD}, aggregation_seconds=0) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("old", connection_status="DENIED")
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        await sandbox.control(consent="MBR-new")
        await hint(bench, aggregation("new", user_guid="USR-old"))
        await hints(bench.runtime)
        assert await bench.sql("SELECT member_guid, moved_to FROM members") == [("MBR-old", "MBR-new")]
        await _read_again_soon(bench)
        await sandbox.control(member="MBR-new", connection_status="DENIED")
        await hint(bench, status("new", user_guid="USR-old"))
        await hints(bench.runtime)
        asked = _gone_at_mx(bench, "MBR-old")
        await fetch(bench.runtime)
        assert asked == ["MBR-new"]
        states = [row[0] for row in await bench.sql("SELECT state FROM reconnections ORDER BY id")]
        assert states == ["reconnected", "ready"]


@pytest.mark.parametrize("how", ["member", "whole"])
async def test_a_sync_asks_for_a_member_that_moved_under_its_new_guid(
    bench_for: Any, sandbox_for: Any, how: str
) -> None:
    async with sandbox_for({**bank(20), "old": OLD}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        await bench.runtime.mx.oauth_window("USR-old", "MBR-old")
        await everything(bench)
        await sweep(bench.runtime)
        _gone_at_mx(bench, "MBR-old")
        await sandbox.control(lists={"hide": ["USR-old"]})
        await (sync_member(bench.runtime, "MBR-old") if how == "member" else everything(bench))
        assert await bench.states() == {"MBR-old": "due"}


async def test_a_move_that_is_learnt_after_the_new_member_makes_no_double(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": OLD | {"connection_status": "CONNECTED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="CONNECTED")
        await bench.runtime.mx.oauth_window("USR-a", "MBR-a")  # MX moves it to MBR-new
        await hint(bench, {"type": "MEMBER", "action": "CREATED", "guid": "MBR-new", "user_guid": "USR-a"})
        await hints(bench.runtime)
        await hint(bench, aggregation("a", user_guid="USR-a"))
        await hints(bench.runtime)
        await _read_again_soon(bench)
        await sandbox.control(member="MBR-new", connection_status="DENIED")
        await hint(bench, status("new", user_guid="USR-a"))
        await hints(bench.runtime)
        await sweep(bench.runtime)
        for stage in (fetch, deliver):
            await stage(bench.runtime)
        assert await bench.one("SELECT count(*) FROM notification_reconnections") == 1


async def test_a_move_that_a_fetch_learnt_is_known_to_the_next_reconnection(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"old": OLD}, aggregation_seconds=0) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("old", connection_status="DENIED")
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        for status in ("CONNECTED", "DENIED"):  # written by the application, which knows only the old GUID
            await bench.sql("UPDATE members SET connection_status = :s", s=status)
            await sweep(bench.runtime)
        asked = _gone_at_mx(bench, "MBR-old")
        await bench.sql("DELETE FROM notifications WHERE state = 'pending'")
        await fetch(bench.runtime)
        assert asked == ["MBR-new"]


async def test_explain_says_which_row_follows_a_member_that_is_there_twice(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.members("old", "new", user="a", connection_status="DENIED")
    await bench.sql("UPDATE members SET moved_to = 'MBR-new' WHERE member_guid = 'MBR-old'")
    await sweep(bench.runtime)
    assert await bench.states() == {"MBR-old": "due"}
    found = await explanation(bench.runtime, "MBR-new")
    assert found["verdict"].startswith("skipped: MX carries MBR-old on under this GUID")
    assert (await explanation(bench.runtime, "MBR-old"))["verdict"].startswith("picked")


async def _ended(bench: Any, name: str, days: int, **columns: Any) -> None:
    now = bench.runtime.clock.now()
    closed_at = bench.stored(now - timedelta(days=days))
    await reconnection(
        bench, name, **{"state": "reconnected", "opened_at": closed_at, "closed_at": closed_at} | columns
    )


@pytest.mark.each_database
async def test_a_second_row_under_the_new_guid_is_told_for_itself_after_retention(bench_for: Any) -> None:
    bench = await bench_for(retention_days=400)
    await bench.members("old", "new", user="a", connection_status="CONNECTED")
    await bench.member("alone", connection_status="CONNECTED")
    await bench.member("other", connection_status="CONNECTED")
    await _ended(bench, "old", 500, user="a", moved_to="MBR-new")
    await _ended(bench, "alone", 500, moved_to="MBR-other")  # another user's member
    assert await retain(bench.runtime, bench.runtime.clock.now()) > 0
    moved = await bench.sql("SELECT member_guid, moved_to FROM members WHERE moved_to IS NOT NULL")
    assert moved == [("MBR-alone", "MBR-other")]
    await bench.sql("UPDATE members SET connection_status = 'DENIED' WHERE member_guid = 'MBR-new'")
    await sweep(bench.runtime)
    assert await bench.states() == {"MBR-new": "due"}


async def test_that_a_member_moved_outlives_the_reconnection_that_knew_it(bench_for: Any) -> None:
    bench = await bench_for(retention_days=400)
    now = bench.runtime.clock.now()
    for name in ("old", "twice", "known", "stays"):
        await bench.member(name, connection_status="CONNECTED", moved_to="MBR-row" if name == "known" else None)
    await bench.member("own", connection_status="CONNECTED")
    await _ended(bench, "old", 500, moved_to="MBR-new")
    await _ended(bench, "twice", 520, moved_to="MBR-first")
    await _ended(bench, "twice", 510, moved_to="MBR-second")
    await _ended(bench, "known", 500, moved_to="MBR-new")
    await _ended(bench, "stays", 500, moved_to="MBR-before")
    await _ended(bench, "stays", 100, moved_to="MBR-since")
    await _ended(bench, "own", 500, moved_to="MBR-of-mx")
    for table in ("members", "reconnections"):
        await bench.sql(f"UPDATE {table} SET member_guid = 'own-id' WHERE member_guid = 'MBR-own'")
    assert await retain(bench.runtime, now) > 0
    assert await bench.one("SELECT count(*) FROM reconnections") == 1
    rows = dict(map(tuple, await bench.sql("SELECT member_guid, moved_to FROM members")))
    assert rows == {
        "MBR-old": "MBR-new",
        "MBR-twice": "MBR-second",
        "MBR-known": "MBR-row",
        "MBR-stays": None,
        "own-id": None,
    }
    # MX lists the new GUID; no second row is inserted for it.
    said = [MxMember(user_guid="USR-old", member_guid="MBR-new", connection_status="DENIED")]
    database = bench.runtime.database
    await database.transaction(lambda c: database.rows.part(MxMembers).apply(c, said, read_at=now, now=now))
    assert await bench.one("SELECT count(*) FROM members") == 5
