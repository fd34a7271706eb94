"""`explain` names what holds a member back now. It asks the code that decides, so the stages then do what it says."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.cli.explain import explanation
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
EVERY_PAUSE_OF_OTHERS = ("institution:birch", "outage:birch", "channel:fcm", "delivery:apns")


def _moments(told: dict[str, Any]) -> list[datetime]:
    """The moments that an explanation predicts."""
    return [datetime.fromisoformat(found).replace(tzinfo=UTC) for found in _MOMENT.findall(told["next"])]


async def _pause(bench: Any, *scopes: str) -> None:
    for scope in scopes:
        await bench.sql(
            "INSERT INTO pauses (scope, reason, since) VALUES (:s, 'why', :at)",
            s=scope,
            at=bench.stored(bench.runtime.clock.now()),
        )


async def _told_before(bench: Any) -> None:
    await bench.sql(
        "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at, outcome) "
        "VALUES ('USR-a', 'email', 0, 'sent', 'k', :at, :at, 'sent')", at=bench.stored(bench.runtime.clock.now() - timedelta(hours=1)),
    )  # fmt: skip


def _sql(statement: str) -> Any:
    async def run(bench: Any) -> None:
        await bench.sql(
            statement, at=bench.stored(bench.runtime.clock.now())
        ) if ":at" in statement else await bench.sql(statement)

    return run


QUIET = {
    "quiet_hours": f"{datetime.now(UTC) - timedelta(hours=3):%H:%M}-{datetime.now(UTC) + timedelta(hours=3):%H:%M}"
}

#: By case: a change of the user, settings, the outcome that fetch then stores, and words of the explanation.
HELD = {
    "opted out": (_sql("UPDATE users SET opted_out_at = :at"), {}, "opted_out", "optout --undo USR-a"),
    "chose none": (_sql("UPDATE users SET channel = 'none'"), {}, "opted_out", "chose no messages"),
    "no address": (_sql("UPDATE users SET email = NULL"), {}, "no_address", "no address and no device"),
    "bounced": (_sql("UPDATE users SET refused_email = email"), {}, "address_refused", "only address was refused"),
    "no channel": (_sql("UPDATE users SET locale = 'en'"), {"smtp_url": ""}, "channel_not_configured", "see SMTP_URL"),
    "quiet hours": (_sql("UPDATE users SET timezone = 'UTC'"), QUIET, "quiet_hours", "QUIET_HOURS"),
    "cap": (_told_before, {"message_caps": "1/24h"}, "message_cap", "MESSAGE_CAPS"),
}


@pytest.mark.parametrize("name", HELD)
async def test_who_cannot_be_told_now_is_said_to_be_held_by_what_fetch_then_records(
    bench_for: Any, sandbox_for: Any, name: str
) -> None:
    act, settings, code, words = HELD[name]
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**(sandbox.settings | settings))
        await bench.member("a", connection_status="DENIED")
        await act(bench)
        await _pause(bench, *EVERY_PAUSE_OF_OTHERS)
        await sweep(bench.runtime)
        told = await explanation(bench.runtime, "MBR-a")
        assert {hold["code"] for hold in told["holds"]} == {code, "sweep_interval"}
        assert any(words in hold["says"] for hold in told["holds"]), told["holds"]
        if code in {"quiet_hours", "message_cap"}:
            until = next(hold["until"] for hold in told["holds"] if hold["code"] == code)
            assert told["contact"] == "is told by email"
            moments = _moments(told)
            assert moments, told
            assert all(moment >= until - timedelta(seconds=1) for moment in moments), told
        else:
            assert told["contact"].startswith("cannot be told: ")
            assert told["next"].startswith("nothing")
        await fetch(bench.runtime)
        assert await bench.one("SELECT outcome FROM reconnections") == code
        assert await bench.one("SELECT count(*) FROM windows") == 0
        asked_at = bench.runtime.clock.now().replace(microsecond=0)  # texts have whole seconds
        defer = await explanation(bench.runtime, "MBR-a")  # now it waits for a stored moment
        assert code in {hold["code"] for hold in defer["holds"]}
        assert all(moment >= asked_at for moment in _moments(defer))


CONCERNING = {
    "everything": True, "mx": True, "institution:alder": True, "outage:alder": True, "channel:email": True, "delivery:email": True,
} | dict.fromkeys(EVERY_PAUSE_OF_OTHERS, False)  # fmt: skip


@pytest.mark.parametrize("scope", CONCERNING)
async def test_only_the_pauses_that_concern_a_member_are_named(bench_for: Any, scope: str) -> None:
    bench = await bench_for(smtp_url="smtp://127.0.0.1:9?tls=none", email_from="a@ledgerly.example")
    await bench.member("a", connection_status="DENIED")
    before = await explanation(bench.runtime, "MBR-a")
    assert "the next sweep opens a reconnection" in before["next"]
    await _pause(bench, scope)
    for _ in range(2):
        told = await explanation(bench.runtime, "MBR-a")
        named = {hold["code"] for hold in told["holds"]} - {"sweep_interval"}
        assert named == ({f"paused:{scope}"} if CONCERNING[scope] else set())
        assert ("once nothing of it is paused" in told["next"]) == CONCERNING[scope]
        await sweep(bench.runtime)


async def test_the_whole_way_of_a_member_predicts_nothing_that_is_past(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, notify_after="15m")
        await bench.member("a", connection_status="DENIED")

        async def told() -> dict[str, Any]:
            asked_at = bench.runtime.clock.now().replace(microsecond=0)  # texts have whole seconds
            found = await explanation(bench.runtime, "MBR-a")
            assert all(moment >= asked_at for moment in _moments(found)), found
            return found

        first = await told()
        assert [hold["code"] for hold in first["holds"]] == ["sweep_interval", "grace"]
        await sweep(bench.runtime)
        second = await told()
        assert [hold["code"] for hold in second["holds"]] == ["grace"]
        assert (
            await fetch(bench.runtime) == "nothing due, 0.0 s" or await bench.one("SELECT count(*) FROM windows") == 0
        )
        await bench.sql(
            "UPDATE reconnections SET next_attempt_at = :at", at=bench.stored(datetime(2020, 1, 1, tzinfo=UTC))
        )
        assert [hold["code"] for hold in (await told())["holds"]] == ["sweep_interval"]
        began = await bench.one("SELECT started_at FROM sweeps")
        await bench.sql("UPDATE sweeps SET started_at = :at", at=bench.stored(datetime(2020, 1, 1, tzinfo=UTC)))
        assert [hold["code"] for hold in (await told())["holds"]] == ["sweeps_overdue", "sweep_interval"]
        await bench.sql("UPDATE sweeps SET started_at = :at", at=began)
        await fetch(bench.runtime)
        ready = await told()
        assert ready["next"].startswith("its message leaves by email")
        await _pause(bench, "delivery:email")
        assert [hold["code"] for hold in (await told())["holds"]] == ["sweep_interval", "paused:delivery:email"]
        await bench.sql("DELETE FROM pauses")
        await deliver(bench.runtime)
        await bench.sql(
            "UPDATE reconnections SET next_check_at = :at", at=bench.stored(datetime(2020, 1, 1, tzinfo=UTC))
        )
        notified = await told()
        assert "MX is asked whether the customer is back at about" in notified["next"]
        assert "the next reminder is fetched at about" in notified["next"]
        # This is the state after a first message that ended `unknown`: it used up no reminder.
        await bench.sql("UPDATE reconnections SET base_step = step")
        assert "the first message, which may not have arrived, is fetched again at about" in (await told())["next"]
        await bench.sql("UPDATE users SET opted_out_at = :at", at=bench.stored(bench.runtime.clock.now()))
        assert "opted_out" in {hold["code"] for hold in (await told())["holds"]}
        await bench.sql("UPDATE members SET connection_status = 'CONNECTED'")
        assert "the next sweep ends it" in (await told())["next"]
        await sweep(bench.runtime)
        ended = await told()
        assert ended["next"] == "nothing, unless it breaks again"
        assert ended["holds"] == []
        await bench.sql("DELETE FROM members")
        assert (await told())["next"] == "nothing, unless it breaks again"


async def test_who_may_not_be_told_and_pressed_a_button_is_said_to_be_checked(bench_for: Any) -> None:
    bench = await bench_for(smtp_url="smtp://127.0.0.1:9?tls=none", email_from="a@ledgerly.example")
    await bench.member("a", connection_status="DENIED")
    await bench.sql("UPDATE users SET opted_out_at = :at", at=bench.stored(bench.runtime.clock.now()))
    await sweep(bench.runtime)
    await bench.sql("UPDATE reconnections SET outcome_at = :at", at=bench.stored(bench.runtime.clock.now()))
    assert "MX is asked" not in (await explanation(bench.runtime, "MBR-a"))["next"]
    await bench.sql("UPDATE reconnections SET next_check_at = :at", at=bench.stored(bench.runtime.clock.now()))
    told = await explanation(bench.runtime, "MBR-a")
    assert told["next"].startswith("MX is asked whether the customer is back at about")
    assert "None" not in str(told["reconnections"][0]["history"])
    await _pause(bench, "mx")
    holds = (await explanation(bench.runtime, "MBR-a"))["holds"]
    assert any("nobody asks MX who is back" in hold["says"] for hold in holds)


async def test_a_lease_says_who_holds_it_and_until_when(bench_for: Any) -> None:
    bench = await bench_for(smtp_url="smtp://127.0.0.1:9?tls=none", email_from="a@ledgerly.example")
    await bench.member("a", connection_status="DENIED")
    await sweep(bench.runtime)
    leased = "UPDATE reconnections SET state = 'leased', lease_worker = 'host:7', lease_expires_at = :at"
    now = bench.runtime.clock.now()
    await bench.sql(leased, at=bench.stored(now + timedelta(minutes=1)))
    told = await explanation(bench.runtime, "MBR-a")
    assert told["holds"][0]["says"].startswith("host:7 is fetching a window; its lease runs out")
    await bench.sql(leased, at=bench.stored(now - timedelta(minutes=1)))
    told = await explanation(bench.runtime, "MBR-a")
    assert [hold["code"] for hold in told["holds"]] == ["lease_lost", "sweep_interval"]
    assert told["next"].startswith("the next sweep takes it back")


@pytest.mark.parametrize("ended", ["exhausted", "quarantined", "unsupported", "gone"])
async def test_what_ended_and_breaks_anew_is_opened_again_and_else_is_left(bench_for: Any, ended: str) -> None:
    bench = await bench_for(smtp_url="smtp://127.0.0.1:9?tls=none", email_from="a@ledgerly.example")
    await bench.member("a", connection_status="DENIED")
    await sweep(bench.runtime)
    past = bench.runtime.clock.now() - timedelta(hours=1)
    await bench.sql(
        "UPDATE reconnections SET state = :s, closed_at = :at, reopen_at = :later",
        s=ended, at=bench.stored(past), later=bench.stored(datetime(2999, 1, 1, tzinfo=UTC)),
    )  # fmt: skip
    resting = await explanation(bench.runtime, "MBR-a")
    assert "opens" not in resting["next"]
    assert (await sweep(bench.runtime)).opened == 0  # type: ignore[union-attr]
    await bench.sql("UPDATE members SET token_revoked_at = :at", at=bench.moment(bench.runtime.clock.now()))
    assert "the next sweep opens a reconnection" in (await explanation(bench.runtime, "MBR-a"))["next"]
    assert (await sweep(bench.runtime)).opened == 1  # type: ignore[union-attr]
