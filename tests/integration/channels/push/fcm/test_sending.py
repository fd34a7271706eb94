"""The requests that FCM gets, and the outcome for the message after each answer and each fault."""

# ruff: noqa: PLR0917 - pytest passes fixtures by name

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.integration.channels.push.fcm.conftest import LINK
from worker.channels import BadAddress, Bank, ChannelDown, DurableLink, Failed, Sent, TryLater, Unknown
from worker.sandbox.phones.google import DEVICE, DROP, HANG, error

BASE = "https://reconnect.example.com"


async def test_a_message_reaches_the_device(google, connect, make_message, record):
    assert await connect().send(make_message(), record) == Sent()
    (message,) = google.messages
    assert message["token"] == DEVICE
    assert message["notification"] == {
        "title": "Reconnect First Bank",
        "body": "Acme no longer receives data from First Bank. Open Acme to connect it again.",
    }
    assert message["data"] == {"message_key": make_message().key}
    assert record.times == 1


async def test_a_message_can_be_told_from_every_other_and_ages(google, connect, make_message, record):
    channel = connect(ttl=3600)
    await channel.send(make_message(), record)
    await channel.send(make_message(), record)
    await channel.send(make_message(key="another"), record)
    same = make_message().key
    assert [m["android"]["collapse_key"] for m in google.messages] == [same, same, "another"]
    assert google.messages[0]["android"] == {"collapse_key": same, "ttl": "3600s", "notification": {"tag": same}}
    assert google.messages[0]["webpush"]["headers"] == {"Topic": same, "TTL": "3600"}
    apple = google.messages[0]["apns"]["headers"]
    assert apple["apns-collapse-id"] == same
    assert 3500 < int(apple["apns-expiration"]) - time.time() <= 3600


async def test_the_link_travels_only_where_that_was_chosen(google, connect, make_message, record):
    await connect().send(make_message(), record)
    await connect(include_link=True).send(make_message(), record)
    without, with_link = (message["data"] for message in google.messages)
    assert LINK not in str(without)
    assert with_link["link"] == LINK


@pytest.mark.parametrize("include_link", [False, True])
async def test_our_own_link_travels_whatever_was_chosen_and_leads_to_all_banks(
    google, connect, make_message, record, include_link
):
    ours = DurableLink(page=f"{BASE}/r/token", unsubscribe=f"{BASE}/u/token", until=datetime(2026, 12, 1, tzinfo=UTC))
    banks = tuple(replace(make_message().banks[0], name=name, link=ours.page) for name in ("First Bank", "Second Bank"))
    assert (
        await connect(include_link=include_link).send(replace(make_message(banks=banks), link=ours), record) == Sent()
    )
    assert google.messages[0]["data"]["link"] == ours.page


async def test_a_link_that_does_not_fit_is_left_out(google, connect, make_message, record):
    message = make_message(link="https://bank.example/" + "x" * 4096)
    assert await connect(include_link=True).send(message, record) == Sent()
    assert "link" not in google.messages[0]["data"]


async def test_a_name_of_any_length_and_script_fits(google, connect, make_message, record):
    assert await connect().send(make_message(bank="第一銀行" * 2000), record) == Sent()


@pytest.mark.parametrize("address", ["", "with space", "line\nbreak", 'quo"te', "back\\slash", "ünicode", "x" * 4097])
async def test_an_address_that_is_no_token_is_never_sent(google, connect, make_message, record, address):
    assert await connect().send(make_message(address=address), record) == BadAddress(code="address_syntax")
    assert (google.token_requests, google.requests, record.times) == (0, [], 0)


async def test_a_token_that_leaves_no_room_fails(google, connect, make_message, record):
    outcome = await connect().send(make_message(address="x" * 4096), record)
    assert outcome == Failed(code="payload_too_large")
    assert not google.requests


async def test_a_message_about_nothing_is_never_sent(google, connect, make_message, record):
    assert await connect().send(make_message(banks=()), record) == Failed(code="no_banks")


async def test_several_banks_are_counted_and_not_linked(google, connect, make_message, record):
    (bank,) = make_message().banks
    other = Bank(name="Second Bank", since=bank.since, link=bank.link)
    await connect(include_link=True).send(make_message(banks=(bank, other)), record)
    (message,) = google.messages
    assert message["notification"]["title"] == "Reconnect 2 of your banks"
    assert "link" not in message["data"]


async def test_the_dispatch_is_on_record_before_anything_is_posted(google, connect, make_message):
    asked = []

    async def dispatching() -> None:
        assert google.token_requests == 1  # fetching a token is no dispatch
        assert not google.requests
        asked.append(True)

    assert await connect().send(make_message(), dispatching) == Sent()
    assert asked == [True]


async def test_what_dispatching_raises_passes_and_nothing_is_posted(google, connect, make_message):
    class LeaseLostError(Exception):
        pass

    async def dispatching() -> None:
        raise LeaseLostError

    with pytest.raises(LeaseLostError):
        await connect().send(make_message(), dispatching)
    assert not google.requests


async def test_a_device_without_the_app_is_a_bad_address(google, connect, make_message, record):
    google.gone.add(DEVICE)
    assert await connect().send(make_message(), record) == BadAddress(code="unregistered")


async def test_a_token_that_fcm_does_not_know_is_a_bad_address(google, connect, make_message, record):
    google.devices.clear()
    assert await connect().send(make_message(), record) == BadAddress(code="invalid_token")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), BadAddress(code="invalid_token")),
        (
            error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", field="message.android.ttl"),
            Failed(code="invalid_argument"),
        ),
        (error(400, "INVALID_ARGUMENT", field="message.token"), BadAddress(code="invalid_token")),
        (error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), ChannelDown(code="sender_id_mismatch")),
        (error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), ChannelDown(code="third_party_auth_error")),
        (error(401, "UNAUTHENTICATED"), ChannelDown(code="http_401")),
        (error(403, "PERMISSION_DENIED"), ChannelDown(code="http_403")),
        (error(404, "NOT_FOUND"), ChannelDown(code="http_404")),
        (
            error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", Retry_After="17"),
            TryLater(code="quota_exceeded", after=17.0, whole_channel=True),
        ),
        (error(429, "RESOURCE_EXHAUSTED"), TryLater(code="http_429", after=60.0, whole_channel=True)),
        (
            error(503, "UNAVAILABLE", "UNAVAILABLE", Retry_After="5"),
            TryLater(code="unavailable", after=5.0, whole_channel=True),
        ),
        (error(500, "INTERNAL", "INTERNAL"), TryLater(code="internal")),
        (error(500, "UNKNOWN", "UNSPECIFIED_ERROR"), TryLater(code="http_500")),
        ((502, "<html>Bad gateway", {}), TryLater(code="http_502", after=60.0, whole_channel=True)),
        ((413, "<html>Too large", {}), Failed(code="http_413")),
    ],
)
async def test_every_documented_error_has_its_consequence(google, connect, make_message, record, answer, outcome):
    google.answers = [answer]
    assert await connect().send(make_message(), record) == outcome
    assert len(google.requests) == 1  # no request was repeated
    assert record.times == 1


async def test_while_fcm_wants_us_to_wait_nothing_is_posted(google, connect, make_message, record):
    google.answers = [error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", Retry_After="300")]
    channel = connect()
    await channel.send(make_message(), record)
    outcome = await channel.send(make_message(key="another"), record)
    assert outcome.code == "quota_exceeded"
    assert outcome.whole_channel
    assert 290 < outcome.after <= 300
    assert (len(google.requests), record.times) == (1, 1)


async def test_one_foreign_token_does_not_stop_a_channel_that_works(google, connect, make_message, record):
    channel = connect()
    assert await channel.send(make_message(), record) == Sent()
    google.answers = [
        error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        error(403, "PERMISSION_DENIED"),
    ]
    assert await channel.send(make_message(key="foreign"), record) == TryLater(code="sender_id_mismatch")
    assert await channel.send(make_message(key="refused"), record) == ChannelDown(code="http_403")


async def test_a_redirect_is_not_followed(google, connect, make_message, record):
    google.answers = [(307, "", {"Location": f"{google.url}/elsewhere"})]
    assert await connect().send(make_message(), record) == ChannelDown(code="http_307")
    assert len(google.requests) == 1


async def test_an_answer_lost_after_the_request_went_out_is_unknown(google, connect, make_message, record):
    google.answers = [DROP]
    assert await connect().send(make_message(), record) == Unknown(code="connection_lost")


async def test_an_answer_that_never_comes_is_unknown(google, connect, make_message, record):
    google.answers = [HANG]
    assert await connect(patience=0.3).send(make_message(), record) == Unknown(code="timeout")


async def test_fcm_out_of_reach_is_tried_later(google, connect, make_message, record, unused_tcp_port):
    channel = connect(base_url=f"http://127.0.0.1:{unused_tcp_port}")
    outcome = await channel.send(make_message(), record)
    assert outcome == TryLater(code="connect_failed", after=60.0, whole_channel=True)


async def test_a_server_without_tls_is_tried_later(google, connect, make_message, record):
    channel = connect(base_url=google.url.replace("http:", "https:"))
    outcome = await channel.send(make_message(), record)
    assert (type(outcome), outcome.code) == (TryLater, "tls_failed")


async def test_a_cancelled_send_is_cancelled_and_the_channel_goes_on(google, connect, make_message, record):
    google.answers = [HANG]
    channel = connect()
    sending = asyncio.create_task(channel.send(make_message(), record))
    async with asyncio.timeout(60):
        await google.asked.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await channel.send(make_message(), record) == Sent()


async def test_many_messages_at_once_arrive_once_each(google, connect, make_message, record):
    channel = connect()
    outcomes = await asyncio.gather(*(channel.send(make_message(key=f"m{n}"), record) for n in range(100)))
    assert set(outcomes) == {Sent()}
    assert {m["data"]["message_key"] for m in google.messages} == {f"m{n}" for n in range(100)}
    assert (len(google.messages), google.token_requests) == (100, 1)


async def test_nothing_secret_is_logged_or_shown(google, connect, make_message, record, caplog):
    caplog.set_level(logging.DEBUG)
    google.answers = [error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", field="message.token"), DROP]
    channel = connect(include_link=True)
    shown = [repr(await channel.send(make_message(), record)) for _ in range(3)]
    shown += [repr(channel), repr(channel._account), repr(await channel._account.token()), caplog.text]
    for secret in (DEVICE, LINK, "ya29", "PRIVATE KEY"):
        assert secret not in " ".join(shown)
