"""After a click: the member is checked sooner, and a failed click is owed a message. Also the end of OAuth. On both databases."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from tests.integration.stages.links import link, linked, message, reconnection
from tests.integration.stages.test_click import press, row
from tests.integration.stages.test_notices import _explain
from worker.mx.answers import Gone, MemberRead, MemberState, RefusedClient, RejectedRequest, RetryLater
from worker.policy.states import Mover
from worker.stages.click import LeadsTo, TryAgain
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.oauth_end import oauth_ended
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store.reconnections.changes import leave_out, reschedule
from worker.store.reconnections.clicked import Clicked
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.moments import Moment
from worker.store.sql.tables import reconnections

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


async def _back(bench: Any, by: timedelta, *columns: str) -> None:
    """Set these columns of the only reconnection to ``by`` before now, as if that much time had passed."""
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


#: By outcome: the SQL after which fetch does not ask MX for the user, since no message may be sent now.
NOT_TOLD_NOW = {
    "opted_out": "UPDATE users SET opted_out_at = CURRENT_TIMESTAMP",
    "muted": "UPDATE members SET muted_at = CURRENT_TIMESTAMP",
    "no_address": "UPDATE users SET email = NULL",
    "message_cap": "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at) "
    "VALUES ('USR-ann', 'email', 1, 'sent', 'another', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
}


def _mx_says(bench: Any, monkeypatch: pytest.MonkeyPatch, **member: Any) -> None:
    async def read(_: str, guid: str) -> MemberRead:
        return MemberRead(member=MemberState(guid=guid, **member))

    monkeypatch.setattr(bench.runtime.mx, "read_member", read)


def _back_at_mx(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = bench.runtime.clock.now()
    _mx_says(
        bench, monkeypatch, connection_status="CONNECTED", is_being_aggregated=False, successfully_aggregated_at=now
    )


@pytest.mark.parametrize("hint", ["click", "done"])
@pytest.mark.parametrize("why", NOT_TOLD_NOW)
async def test_who_comes_back_by_a_click_is_noticed_although_no_message_may_be_sent(
    bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch, why: str, hint: str
) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(
            **sandbox.settings, public_base_url="https://reconnect.example.com", message_caps="1/24h", quiet_hours=""
        )
        token, id_ = await linked(bench)
        await bench.sql(
            "UPDATE notifications SET sent_at = NULL, created_at = :m", m=bench.stored(datetime(2020, 1, 1, tzinfo=UTC))
        )
        await bench.sql(NOT_TOLD_NOW[why])
        await _back(bench, MINUTE, "next_attempt_at")  # the reminder's day
        for stage in (sweep, fetch, verify):
            await stage(bench.runtime)
        found = await row(bench, id_)
        assert (found["state"], found["outcome"], found["next_check_at"]) == ("due", why, None)
        if hint == "click":
            assert isinstance(await press(bench, token), LeadsTo)
            assert await _after_click(bench, id_) == pytest.approx(20, abs=0.01)
        else:
            await oauth_ended(bench.runtime, "MBR-ann")
        await _back(bench, MINUTE, "next_attempt_at")
        await fetch(bench.runtime)  # deferred once more
        assert (await row(bench, id_))["outcome"] == why
        _back_at_mx(bench, monkeypatch)
        await _back(bench, SECOND, "next_check_at")
        bench.woken.clear()
        await sweep(bench.runtime)
        assert ("verify", 1) in bench.woken
        await verify(bench.runtime)
        found = await row(bench, id_)
        assert (found["state"], found["outcome"], found["next_check_at"]) == ("reconnected", "back", None)


async def test_what_is_due_is_checked_at_the_moments_after_a_click_alone_and_stays_as_it_is(
    bench_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await bench_for()
    token, id_ = await linked(
        bench, state="due", outcome="opted_out", checks=3, lost_leases=2, attempts=1, uri="https://bank.example/oauth"
    )
    columns = "state, outcome, checks, lost_leases, attempts, epoch, next_attempt_at"
    before = await bench.sql(f"SELECT {columns} FROM reconnections")
    _mx_says(bench, monkeypatch, connection_status="DENIED")
    await _press_stored(bench, token)
    for made, following in ((20.5, 40), (41, 60), (61, 120), (125, 300), (301, 600)):
        await _back(bench, made * SECOND, "clicked_at", "next_check_at")
        await verify(bench.runtime)
        assert await _after_click(bench, id_) == pytest.approx(following, abs=0.01)
    await _back(bench, 601 * SECOND, "clicked_at", "next_check_at")
    await verify(bench.runtime)
    assert (await row(bench, id_))["next_check_at"] is None
    assert await bench.sql(f"SELECT {columns} FROM reconnections") == before
    # After a hint the member is checked once, and not again within ten seconds.
    hinted_at = bench.runtime.clock.now()
    for _ in range(2):
        await oauth_ended(bench.runtime, "MBR-ann")
        await verify(bench.runtime)
    found = await row(bench, id_)
    ten_seconds_from = _moment(bench, found["next_check_at"]) - 10 * SECOND
    assert hinted_at <= ten_seconds_from + 2 * SECOND
    assert ten_seconds_from <= bench.runtime.clock.now()


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (RetryLater(code="http_500"), "due"), (RefusedClient(code="http_401"), "due"),
        (Gone(), "gone"), (RejectedRequest(code="http_400"), "due"),
    ],
)  # fmt: skip
async def test_the_last_check_of_what_is_due_is_made_again_until_mx_answers(
    bench_for: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, state: str
) -> None:
    bench = await bench_for()
    token, id_ = await linked(bench, state="due", outcome="opted_out", uri="https://bank.example/oauth")
    await _press_stored(bench, token)

    async def read(*_: Any) -> Any:
        return answer

    monkeypatch.setattr(bench.runtime.mx, "read_member", read)
    await _back(bench, 605 * SECOND, "clicked_at", "next_check_at")
    await verify(bench.runtime)
    found = await row(bench, id_)
    assert found["state"] == state
    assert (found["next_check_at"] is not None) == isinstance(answer, RetryLater | RefusedClient)


@pytest.mark.each_database
@pytest.mark.parametrize("clicked", [False, True])
@pytest.mark.parametrize("how", ["remind", "owed", "along"])
async def test_a_reminder_ends_the_usual_checks_and_leaves_those_after_a_click(
    bench_for: Any, sandbox_for: Any, how: str, clicked: bool
) -> None:
    async with sandbox_for({"ann": ["503"], "bob": ["503"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench, user="ann", uri="https://bank.example/oauth")
        if clicked:
            await _press_stored(bench, token)
        now = bench.runtime.clock.now()
        if how == "along":
            await bench.sql("UPDATE reconnections SET next_attempt_at = :m", m=bench.stored(now + 60 * MINUTE))
            await reconnection(bench, "bob", user="ann", state="due", next_attempt_at=now - MINUTE)
            await fetch(bench.runtime)
        else:
            column, past = ("owed_at", 61) if how == "owed" else ("next_attempt_at", 1)
            await bench.sql(f"UPDATE reconnections SET {column} = :m", m=bench.stored(now - past * MINUTE))
            await sweep(bench.runtime)
        found = await row(bench, id_)
        assert found["state"] == "due"
        assert (found["next_check_at"] is not None) == clicked


@pytest.mark.parametrize("state", ["leased", "ready"])
async def test_a_click_while_a_worker_has_the_reconnection_is_followed_by_checks_once_it_is_due_again(
    bench_for: Any, state: str
) -> None:
    bench = await bench_for()
    token, id_ = await linked(bench, state=state, uri="https://bank.example/oauth")
    await _press_stored(bench, token)
    change = (
        reschedule(id_, outcome="opted_out", attempts=0, at=bench.runtime.clock.now())
        if state == "leased"
        else leave_out(id_, at=bench.runtime.clock.now(), outcome="http_503")
    )
    mover = Mover.FETCH if state == "leased" else Mover.DELIVER
    now = bench.runtime.clock.now()
    transitions = bench.runtime.database.rows.part(Transitions)
    await bench.runtime.database.transaction(lambda c: transitions.apply(c, [change], by=mover, now=now))
    assert (await row(bench, id_))["state"] == "due"
    assert await _after_click(bench, id_) == pytest.approx(20, abs=0.01)


async def _press_stored(bench: Any, token: str) -> None:
    assert isinstance(await press(bench, token), LeadsTo)


async def test_a_thousand_clicks_wake_verify_about_six_times_in_ten_minutes(bench_for: Any) -> None:
    bench = await bench_for()
    for _ in range(1000):
        bench.runtime.delayed_wakes.plan("verify", (20, 40, 60, 120, 300, 600))
    assert 6 <= bench.runtime.delayed_wakes.planned <= 12  # a wake for each moment, two while the second changes
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
    assert abs((_moment(bench, found["next_check_at"]) - now).total_seconds() - 10) < 15


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
