"""Messages through the company's own messenger: each is signed, has a key against duplicates, and is sent once."""

import asyncio
import json
import os
import sys
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from worker.channels import Sent, TryLater
from worker.cli.previewing import preview
from worker.errors import SettingsError
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.sql.tables import notifications, reconnections, users

DAY = timedelta(days=1)


class Office:
    """A worker whose users get their messages through the messenger."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench

    async def work(self) -> None:
        for stage in (sweep, fetch, deliver):
            await stage(self.bench.runtime)

    async def due_again(self) -> None:
        past = self.bench.stored(self.bench.runtime.clock.now() - timedelta(minutes=1))
        for statement in (
            "UPDATE notifications SET next_attempt_at = :past WHERE state = 'pending'",
            "UPDATE reconnections SET next_attempt_at = :past WHERE state = 'due'",
            "UPDATE pauses SET probe_at = :past",
        ):
            await self.bench.sql(statement, past=past)

    async def rows(self, table: Any) -> list[Any]:
        async with self.bench.runtime.database.engine.begin() as connection:
            key = table.c.user_guid if table is users else table.c.id
            return list((await connection.execute(select(table).order_by(key))).mappings())


@pytest.fixture
async def office(bench_for: Any, sandbox_for: Any, messenger: Any) -> Any:
    async with sandbox_for({name: ["ok"] for name in "abcdef"}) as sandbox:

        async def open_(count: int = 1, *, email: str | None = None, **config: Any) -> Office:
            given = {
                "mx_base_url": sandbox.addresses.base_url,
                "messenger_url": messenger.url,
                "events_secrets": messenger.secrets,
                "public_base_url": "https://reconnect.example.com",
                "app_name": "Ledgerly",
            }
            bench = await bench_for(**(given | config))
            for name in "abcdef"[:count]:
                await bench.member(name, email=email, connection_status="DENIED", institution_name="Alder & Sons")
            await bench.sql("UPDATE users SET channel = 'Messenger', locale = 'es'")
            return Office(bench)

        yield open_


async def test_a_user_is_told_by_one_signed_request_with_a_link_that_leads_on(office: Any, messenger: Any) -> None:
    at = await office()
    await at.work()
    await at.work()
    (row,) = await at.rows(notifications)
    assert (row["state"], row["channel"], row["outcome"]) == ("sent", "messenger", "sent")
    assert messenger.requests == [row["message_key"]]
    fields = messenger.taken[row["message_key"]]
    assert (fields["user_guid"], fields["text"]["language"], fields["kind"]) == ("USR-a", "es", "broken")
    assert [bank["name"] for bank in fields["banks"]] == ["Alder & Sons"]
    assert fields["link"].startswith("https://reconnect.example.com/r/")
    assert await at.bench.one("SELECT count(*) FROM links") == 1


async def test_an_offset_that_is_not_whole_hours_is_told_as_an_offset(office: Any, messenger: Any) -> None:
    at, zones = await office(3), {"USR-a": "+05:30", "USR-b": "-03:30", "USR-c": "Europe/Madrid"}
    for guid, zone in zones.items():
        await at.bench.sql("UPDATE users SET timezone = :zone WHERE user_guid = :guid", zone=zone, guid=guid)
    await at.work()
    assert {fields["user_guid"]: fields["time_zone"] for fields in messenger.taken.values()} == zones


async def test_a_user_without_a_wish_is_told_by_email_first_and_by_the_messenger_without_an_address(
    office: Any, messenger: Any
) -> None:
    at = await office()
    await at.bench.sql("UPDATE users SET channel = NULL")
    await at.work()
    assert len(messenger.requests) == 1


async def test_a_user_whom_the_messenger_cannot_reach_is_told_another_way_and_it_is_not_asked_again(
    office: Any, messenger: Any, sandbox_for: Any
) -> None:
    messenger.answers = [410]
    at = await office(email="a@mail.example")
    await at.work()
    (row,) = await at.rows(notifications)
    assert (row["state"], row["outcome"]) == ("suppressed", "http_410")
    (user,) = await at.rows(users)
    assert user["messenger_refused_at"] is not None
    assert (await at.rows(reconnections))[0]["state"] == "due"
    await at.due_again()
    await at.work()
    assert len(messenger.requests) == 1
    assert (await at.rows(reconnections))[0]["outcome"] == "channel_not_configured"  # SMTP_URL is unset
    await at.bench.sql("UPDATE users SET email = NULL")
    await at.due_again()
    await at.work()
    assert (await at.rows(reconnections))[0]["outcome"] == "no_address"
    long_ago = at.bench.stored(at.bench.runtime.clock.now() - 31 * DAY)
    await at.bench.sql("UPDATE users SET messenger_refused_at = :at", at=long_ago)
    await at.due_again()
    await at.work()
    assert len(messenger.requests) == 2
    assert len(messenger.taken) == 1


async def test_a_user_whose_message_it_refuses_is_told_by_email_at_once(
    office: Any, messenger: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        messenger.answers = [422]
        at = await office(email="a@mail.example", **sandbox.settings)
        await at.work()
        (reconnection,) = await at.rows(reconnections)
        assert (reconnection["state"], reconnection["step"], reconnection["base_step"]) == ("due", 1, 1)
        await at.work()
        assert [(row["channel"], row["state"]) for row in await at.rows(notifications)] == [
            ("messenger", "failed"),
            ("email", "sent"),
        ]
        assert [user["messenger_refused_at"] for user in await at.rows(users)] == [None]


async def test_a_refusal_where_there_is_no_other_way_waits_for_the_next_reminder(office: Any, messenger: Any) -> None:
    messenger.answers = [422]
    at = await office()
    await at.work()
    (reconnection,) = await at.rows(reconnections)
    assert reconnection["state"] == "due"
    assert reconnection["next_attempt_at"] > at.bench.runtime.clock.now() + 2 * DAY
    await at.work()
    assert len(messenger.requests) == 1


@pytest.mark.parametrize("hold", ["hold", "resend"])
async def test_a_lost_answer_is_unknown_and_a_resend_carries_the_same_key(
    office: Any, messenger: Any, hold: str
) -> None:
    messenger.fault = "lost"
    at = await office(ambiguous_sends=hold)
    await at.work()
    (row,) = await at.rows(notifications)
    assert row["state"] == ("unknown" if hold == "hold" else "pending")
    messenger.fault = None
    await at.due_again()
    await at.work()
    assert len(messenger.requests) == (1 if hold == "hold" else 2)
    assert len(messenger.taken) == 1
    if hold == "resend":
        assert (await at.rows(notifications))[0]["state"] == "sent"


async def test_a_worker_that_is_stopped_after_dispatch_sends_nothing_twice(office: Any, messenger: Any) -> None:
    messenger.fault = "hang"
    at = await office()
    for stage in (sweep, fetch):
        await stage(at.bench.runtime)
    run = asyncio.create_task(deliver(at.bench.runtime))
    await asyncio.wait_for(messenger.hanging.wait(), 20)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    messenger.fault = None
    await at.due_again()
    await at.work()
    (row,) = await at.rows(notifications)
    assert row["state"] == "unknown"
    assert len(messenger.requests) == 1


_DELIVER = """
import asyncio
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.stages.deliver import deliver

async def wake(_stage, n):
    return n

async def main():
    await deliver(Runtime(load_settings(_env_file=None), wake=wake))

asyncio.run(main())
"""


async def test_a_worker_that_is_killed_after_dispatch_sends_nothing_twice(office: Any, messenger: Any) -> None:
    messenger.fault = "hang"
    at = await office()
    settings = at.bench.runtime.settings
    for stage in (sweep, fetch):
        await stage(at.bench.runtime)
    secret = ("database_url", "redis_url", "mx_api_key", "mx_client_id", "messenger_url")
    environment = {
        **os.environ,
        **{name.upper(): getattr(settings, name).get_secret_value() for name in secret},
        "MX_BASE_URL": settings.mx_base_url,
        "URI_KEYS": settings.uri_keys[0].get_secret_value(),
        "EVENTS_SECRETS": messenger.secrets,
        "PUBLIC_BASE_URL": "https://reconnect.example.com",
        "QUIET_HOURS": "",
        "MESSAGE_CAPS": "",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _DELIVER, env=environment)
    try:
        await asyncio.wait_for(messenger.hanging.wait(), 60)
    finally:
        process.kill()
        await process.wait()
    messenger.fault = None
    assert (await at.rows(notifications))[0]["state"] == "sending"
    await at.bench.sql("UPDATE notifications SET lease_expires_at = '2020-01-01 00:00:00'")
    await at.due_again()
    await at.work()
    (row,) = await at.rows(notifications)
    assert (row["state"], row["outcome"]) == ("unknown", "worker_died")
    assert len(messenger.requests) == 1


async def test_a_busy_messenger_is_left_alone_for_as_long_as_it_asks_and_costs_nobody_an_attempt(
    office: Any, messenger: Any
) -> None:
    messenger.answers, messenger.headers = [429] * 6, {"Retry-After": "600"}
    at = await office(4)
    began = at.bench.runtime.clock.now()
    await at.work()
    rows = await at.rows(notifications)
    assert {(row["state"], row["attempts"], row["outcome"]) for row in rows} == {("pending", 0, "http_429")}
    assert min(row["next_attempt_at"] for row in rows) > began + timedelta(seconds=590)


@pytest.mark.parametrize("status", [401, 500, 410])
async def test_a_messenger_that_refuses_everybody_stops_the_channel_and_costs_nobody_anything(
    office: Any, messenger: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.policy.streaks.MANY", 6)
    messenger.answers = [status] * 6
    at = await office(6)
    await at.work()
    assert {(row["state"], row["attempts"]) for row in await at.rows(notifications)} == {("pending", 0)}
    assert {user["messenger_refused_at"] for user in await at.rows(users)} == {None}
    reason = await at.bench.one("SELECT reason FROM pauses WHERE scope = 'delivery:messenger'")
    assert reason == f"your messenger refuses us: 6 messages alike, with http_{status}"
    messenger.answers = []
    await at.due_again()
    await at.work()
    assert len(messenger.taken) == 6


async def test_a_messenger_that_is_not_there_stops_the_channel(office: Any, messenger: Any) -> None:
    at = await office(2, messenger_url="http://127.0.0.1:9/box")
    await at.work()
    assert {(row["state"], row["attempts"]) for row in await at.rows(notifications)} == {("pending", 0)}
    assert await at.bench.one("SELECT scope FROM pauses") == "delivery:messenger"
    channel = at.bench.runtime.channels["messenger"]
    assert isinstance(await channel.check(), TryLater)


async def test_doctor_asks_whether_the_server_answers_and_sends_no_message(office: Any, messenger: Any) -> None:
    at = await office()
    assert await at.bench.runtime.channels["messenger"].check() == Sent(code="ready")
    assert messenger.requests == []


async def test_preview_shows_the_request(office: Any) -> None:
    at = await office()
    await sweep(at.bench.runtime)
    shown = await preview(at.bench.runtime, "USR-a", None)
    fields = json.loads(shown.text)
    assert (shown.channel, fields["user_guid"], fields["app"]) == ("messenger", "USR-a", "Ledgerly")
    assert fields["link"].startswith("https://reconnect.example.com/r/this-is-a-sample")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"public_base_url": None}, "PUBLIC_BASE_URL is missing: MESSENGER_URL is set"),
        ({"events_secrets": ""}, "EVENTS_SECRETS is missing: MESSENGER_URL is set"),
        ({"messenger_url": "http://messenger.example.com/box"}, "MESSENGER_URL: must be https"),
        ({"messenger_url": "https://user:hunter2@messenger.example.com/"}, "MESSENGER_URL: expected a URL such as"),
    ],
)
def test_a_messenger_that_lacks_something_is_one_line(settings_for: Any, given: Any, says: str) -> None:
    whole = {
        "messenger_url": "https://messenger.example.com/box",
        "events_secrets": "whsec_" + "A" * 32,
        "public_base_url": "https://reconnect.example.com",
    }
    settings_for(**whole)
    with pytest.raises(SettingsError, match=says) as raised:
        settings_for(**(whole | given))
    assert "hunter2" not in str(raised.value)
