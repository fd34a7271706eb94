"""What follows a click: checks that come sooner, a message that is owed, the end of OAuth; on both databases."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from tests.integration.stages.links import link, linked, message, reconnection
from tests.integration.stages.test_click import press, row
from tests.integration.stages.test_notices import _explain
from worker.mx.answers import MemberRead, MemberState
from worker.stages.click import LeadsTo, TryAgain
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.oauth_end import oauth_ended
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store.reconnections.clicked import Clicked
from worker.store.sql.moments import Moment
from worker.store.sql.tables import reconnections

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


async def _back(bench: Any, by: timedelta, *columns: str) -> None:
    """Put moments of the only reconnection back, as if time had passed."""
    now = bench.runtime.clock.now()
    for column in columns:
        await bench.sql(f"UPDATE reconnections SET {column} = :m", m=bench.stored(now - by))


def _moment(bench: Any, value: Any) -> Any:
    return (
        Moment().process_result_value(value, bench.runtime.database.engine.dialect) if isinstance(value, str) else value
    )


async def _after_click(bench: Any, id_: int, column: str = "next_check_at") -> float:
    """Seconds from the click to a moment of the reconnection."""
    found = await row(bench, id_)
    return float((_moment(bench, found[column]) - _moment(bench, found["clicked_at"])).total_seconds())


async def test_after_a_click_the_member_is_checked_at_each_of_its_moments_and_then_as_before(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench, checks=3)
        assert isinstance(await press(bench, token), LeadsTo)
        assert await _after_click(bench, id_) == pytest.approx(20, abs=0.01)
        for made, following in ((20.5, 40), (41, 60), (61, 120), (125, 300), (301, 600)):
            await _back(bench, made * SECOND, "clicked_at", "next_check_at")
            await verify(bench.runtime)
            assert await _after_click(bench, id_) == pytest.approx(following, abs=0.01)
        await _back(bench, 601 * SECOND, "clicked_at", "next_check_at")
        await verify(bench.runtime)
        assert await bench.one("SELECT checks FROM reconnections") == 3
        assert await _after_click(bench, id_) == pytest.approx(601 + 600, abs=5)  # after three checks in ten minutes


async def test_a_click_during_a_check_is_not_forgotten(bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await bench_for()
    uri = "https://bank.example/oauth?state=1"
    token, id_ = await linked(bench, checks=9, uri=uri)
    await _back(bench, SECOND, "next_check_at")

    async def read(*_: Any) -> Any:
        assert await press(bench, token) == LeadsTo(uri)
        return MemberRead(member=MemberState(guid="MBR-ann", connection_status="DENIED"))

    monkeypatch.setattr(bench.runtime.mx, "read_member", read)
    await verify(bench.runtime)
    assert await _after_click(bench, id_) == pytest.approx(20, abs=0.01)


async def test_a_thousand_clicks_wake_verify_six_times_in_ten_minutes(bench_for: Any) -> None:
    bench = await bench_for()
    for _ in range(1000):
        bench.runtime.delayed_wakes.plan("verify", (20, 40, 60, 120, 300, 600))
    assert bench.runtime.delayed_wakes.planned <= 12
    bench.runtime.delayed_wakes.plan("verify", (0,))
    async with asyncio.timeout(20):
        while not bench.woken:  # noqa: ASYNC110 - the bench has no event to wait for
            await asyncio.sleep(0.01)
    assert bench.woken == [("verify", 1)]


@pytest.mark.parametrize(("step", "base", "becomes"), [(1, 0, 1), (3, 1, 2), (1, 1, 1)])
async def test_whose_click_failed_an_hour_ago_is_told_once_and_keeps_the_reminders_date(
    bench_for: Any, sandbox_for: Any, step: int, base: int, becomes: int
) -> None:
    async with sandbox_for({"ann": ["503", "503", "503", "503", "ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench, step=step, base_step=base)
        assert await press(bench, token) == TryAgain()
        await sweep(bench.runtime)
        assert (await row(bench, id_))["state"] == "notified"
        await _back(bench, 61 * MINUTE, "owed_at")
        await sweep(bench.runtime)
        found = await bench.sql("SELECT state, base_step, step, owed_at FROM reconnections")
        assert tuple(found[0]) == ("due", becomes, step, None)
        await fetch(bench.runtime)
        await bench.sql("UPDATE reconnections SET next_attempt_at = :n", n=bench.stored(bench.runtime.clock.now()))
        await fetch(bench.runtime)
        assert await bench.one("SELECT count(*) FROM notifications WHERE state = 'pending'") == 1
        await sweep(bench.runtime)
        assert await bench.one("SELECT count(*) FROM notifications") == 2


async def test_a_message_that_leaves_after_a_failed_click_is_the_one_that_is_owed(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"ann": ["ok", "503", "ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url="https://reconnect.example.com")
        token, id_ = await linked(bench)
        await _back(bench, MINUTE, "next_attempt_at")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert (await row(bench, id_))["state"] == "ready"
        assert await press(bench, token) == TryAgain()  # while the reminder waits to leave
        assert (await row(bench, id_))["owed_at"]
        await deliver(bench.runtime)
        found = await row(bench, id_)
        assert (found["state"], found["owed_at"]) == ("notified", None)
        assert len(await sandbox.mails()) == 1


async def test_a_click_that_is_served_within_the_hour_owes_nothing(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"ann": ["500", "ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench)
        assert await press(bench, token) == TryAgain()
        assert isinstance(await press(bench, token), LeadsTo)
        await sweep(bench.runtime)
        assert (await row(bench, id_))["state"] == "notified"


async def test_a_uri_that_was_minted_for_a_click_is_forgotten_when_its_double_click_is_over(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, _ = await linked(bench)
        await press(bench, token)
        await sweep(bench.runtime)
        assert await bench.one("SELECT count(*) FROM windows WHERE uri IS NOT NULL") == 1
        await bench.sql("UPDATE windows SET fetched_at = :f", f=bench.stored(bench.runtime.clock.now() - 3 * MINUTE))
        await sweep(bench.runtime)
        assert await bench.one("SELECT count(*) FROM windows WHERE uri IS NOT NULL") == 0


@pytest.mark.parametrize("named", ["MBR-ann", "MBR-anew"])
async def test_the_end_of_oauth_makes_its_member_be_checked_now_but_not_more_than_every_ten_seconds(
    bench_for: Any, named: str
) -> None:
    bench = await bench_for()
    id_ = await reconnection(bench, "ann", moved_to="MBR-anew")
    await reconnection(bench, "bob")
    await oauth_ended(bench.runtime, named)
    now = bench.runtime.clock.now()
    due = await bench.sql("SELECT id FROM reconnections WHERE next_check_at <= :n", n=bench.stored(now + SECOND))
    assert [each.id for each in due] == [id_]
    await bench.sql(
        "UPDATE reconnections SET outcome_at = :o, next_check_at = :c WHERE id = :i",
        o=bench.stored(now), c=bench.stored(now + 60 * MINUTE), i=id_,
    )  # fmt: skip
    await oauth_ended(bench.runtime, named)
    found = await row(bench, id_)
    assert abs((_moment(bench, found["next_check_at"]) - now).total_seconds() - 10) < 1


@pytest.mark.parametrize("guid", [None, "", "MBR-nobody", "USR-ann", "MBR-" + "x" * 500, "MBR-\ud800", "' OR 1=1 --"])
async def test_any_other_text_at_the_end_of_oauth_does_nothing(bench_for: Any, guid: str | None) -> None:
    bench = await bench_for()
    await link(bench, "ann", await message(bench, "ann", await reconnection(bench, "ann")))
    before = await bench.sql("SELECT * FROM reconnections")
    await oauth_ended(bench.runtime, guid)
    assert await bench.sql("SELECT * FROM reconnections") == before
    assert bench.runtime.delayed_wakes.planned == 0


async def test_the_end_of_oauth_reads_two_indexes_since_anybody_may_write_its_address(bench_for: Any) -> None:
    bench = await bench_for()
    now = bench.runtime.clock.now()
    many = [
        {"member_guid": f"MBR-{n}", "user_guid": f"USR-{n}", "state": "notified", "reason": "connection_status",
         "broken_since": now, "opened_at": now, "next_check_at": now}
        for n in range(5_000)
    ]  # fmt: skip
    plans = []
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(insert(reconnections), many)
        await connection.execute(text("ANALYZE"))
        for statement in Clicked(bench.runtime.database.rows)._check_now:
            event.listen(connection.sync_connection, "before_cursor_execute", _explain, retval=True)
            found = await connection.execute(statement, {"guid": "MBR-7", "now": now})
            event.remove(connection.sync_connection, "before_cursor_execute", _explain)
            plans.append("\n".join(" ".join(map(str, line)) for line in found))
    assert "reconnections_open" in plans[0] or "reconnections_member_guid" in plans[0], plans[0]
    assert "ix_reconnections_moved" in plans[1], plans[1]
