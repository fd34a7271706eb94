"""The requests that APNs gets, and the outcome for the message after each of its answers."""

# ruff: noqa: PLR0917 - pytest passes fixtures by name

import asyncio
import logging
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.integration.channels.push.apns.conftest import LINK
from worker.channels import BadAddress, ChannelDown, DurableLink, Failed, Sent, TryLater
from worker.sandbox.phones.apple import DEVICE, HANG, KEY_ID, STATUS_OF, TOPIC

BASE = "https://reconnect.example.com"


async def test_a_message_reaches_the_device(apple, connect, make_message, record):
    assert await connect().send(make_message(), record) == Sent()
    (payload,) = apple.payloads
    alert = {
        "title": "Reconnect First Bank",
        "body": "Acme no longer receives data from First Bank. Open Acme to connect it again.",
    }
    assert payload == {"aps": {"alert": alert, "sound": "default"}, "message_key": make_message().key}
    assert record.times == 1


async def test_apns_gets_every_header_that_it_wants(apple, connect, make_message, record):
    await connect(ttl=3600).send(make_message(), record)
    (headers,) = apple.requests
    assert headers[":path"] == f"/3/device/{DEVICE}"
    assert headers["apns-topic"] == TOPIC
    assert headers["apns-push-type"] == "alert"
    assert 3500 < int(headers["apns-expiration"]) - time.time() <= 3600
    assert uuid.UUID(headers["apns-id"])


async def test_every_try_of_a_message_has_its_ids_and_no_other_message_has_them(apple, connect, make_message, record):
    channel = connect()
    await channel.send(make_message(), record)
    await connect().send(make_message(), record)
    await channel.send(make_message(key="another/0/apns " + "x" * 100), record)
    collapse_ids, apns_ids = ([r[name] for r in apple.requests] for name in ("apns-collapse-id", "apns-id"))
    for ids in (collapse_ids, apns_ids):
        assert ids[0] == ids[1] != ids[2]


async def test_the_link_travels_only_where_that_was_chosen(apple, connect, make_message, record):
    await connect().send(make_message(), record)
    await connect(include_link=True).send(make_message(), record)
    without, with_link = apple.payloads
    assert LINK not in str(without)
    assert with_link["link"] == LINK


@pytest.mark.parametrize("include_link", [False, True])
async def test_our_own_link_travels_whatever_was_chosen_and_leads_to_all_banks(
    apple, connect, make_message, record, include_link
):
    ours = DurableLink(page=f"{BASE}/r/token", unsubscribe=f"{BASE}/u/token", until=datetime(2026, 12, 1, tzinfo=UTC))
    banks = tuple(replace(make_message().banks[0], name=name, link=ours.page) for name in ("First Bank", "Second Bank"))
    assert (
        await connect(include_link=include_link).send(replace(make_message(banks=banks), link=ours), record) == Sent()
    )
    assert apple.payloads[0]["link"] == ours.page


async def test_a_payload_never_grows_too_large(apple, connect, make_message, record):
    message = make_message(bank="第一銀行" * 2000, link="https://bank.example/" + "x" * 4096)
    assert await connect(include_link=True).send(message, record) == Sent()
    assert "link" not in apple.payloads[0]


@pytest.mark.parametrize("address", ["", "0f1e", DEVICE + "0", DEVICE[:-2] + "zz", DEVICE + "/../x", "0f" * 101])
async def test_an_address_that_is_no_device_token_is_never_sent(apple, connect, make_message, record, address):
    assert await connect().send(make_message(address=address), record) == BadAddress(code="address_syntax")
    assert (apple.connections, record.times) == (0, 0)


async def test_a_message_about_nothing_is_never_sent(connect, make_message, record):
    assert await connect().send(make_message(banks=()), record) == Failed(code="no_banks")


async def test_the_dispatch_is_on_record_before_anything_is_posted(apple, connect, make_message):
    asked = []

    async def dispatching() -> None:
        assert not apple.connections
        asked.append(True)

    assert await connect().send(make_message(), dispatching) == Sent()
    assert asked == [True]


async def test_what_dispatching_raises_passes_and_nothing_is_posted(apple, connect, make_message):
    class LeaseLostError(Exception):
        pass

    async def dispatching() -> None:
        raise LeaseLostError

    with pytest.raises(LeaseLostError):
        await connect().send(make_message(), dispatching)
    assert not apple.connections


async def test_a_device_without_the_app_is_a_bad_address(apple, connect, make_message, record):
    apple.gone.add(DEVICE)
    assert await connect().send(make_message(), record) == BadAddress(code="unregistered")


async def test_a_token_of_the_other_environment_makes_a_suspect(apple, connect, make_message, record):
    apple.devices.clear()
    assert await connect().send(make_message(), record) == BadAddress(code="bad_device_token", doubtful=True)


async def test_one_suspect_after_the_other_stops_the_channel_until_a_message_is_accepted(
    apple, connect, make_message, record
):
    channel = connect()
    apple.answers = ["BadDeviceToken"] * 7
    outcomes = [await channel.send(make_message(), record) for _ in range(7)]
    assert outcomes[:5] == [BadAddress(code="bad_device_token", doubtful=True)] * 5
    assert outcomes[5:] == [ChannelDown(code="bad_device_token")] * 2
    assert await channel.send(make_message(), record) == Sent()
    apple.answers = ["BadDeviceToken"]
    assert isinstance(await channel.send(make_message(), record), BadAddress)


CONSEQUENCES = {
    "BadCollapseId": Failed(code="bad_collapse_id"),
    "BadDeviceToken": BadAddress(code="bad_device_token", doubtful=True),
    "BadExpirationDate": Failed(code="bad_expiration_date"),
    "BadMessageId": Failed(code="bad_message_id"),
    "BadPriority": Failed(code="bad_priority"),
    "BadTopic": ChannelDown(code="bad_topic"),
    "DeviceTokenNotForTopic": BadAddress(code="device_token_not_for_topic", doubtful=True),
    "DuplicateHeaders": Failed(code="duplicate_headers"),
    "IdleTimeout": TryLater(code="idle_timeout"),
    "InvalidPushType": Failed(code="invalid_push_type"),
    "MissingDeviceToken": Failed(code="missing_device_token"),
    "MissingTopic": ChannelDown(code="missing_topic"),
    "PayloadEmpty": Failed(code="payload_empty"),
    "TopicDisallowed": ChannelDown(code="topic_disallowed"),
    "BadCertificate": ChannelDown(code="bad_certificate"),
    "BadCertificateEnvironment": ChannelDown(code="bad_certificate_environment"),
    "Forbidden": ChannelDown(code="forbidden"),
    "InvalidProviderToken": ChannelDown(code="invalid_provider_token"),
    "MissingProviderToken": ChannelDown(code="missing_provider_token"),
    "UnrelatedKeyIdInToken": ChannelDown(code="unrelated_key_id_in_token"),
    "BadEnvironmentKeyIdInToken": ChannelDown(code="bad_environment_key_id_in_token"),
    "BadPath": Failed(code="bad_path"),
    "MethodNotAllowed": Failed(code="method_not_allowed"),
    "ExpiredToken": BadAddress(code="expired_token"),
    "Unregistered": BadAddress(code="unregistered"),
    "PayloadTooLarge": Failed(code="payload_too_large"),
    "TooManyProviderTokenUpdates": TryLater(code="too_many_provider_token_updates", after=1200, whole_channel=True),
    "TooManyRequests": TryLater(code="too_many_requests"),
    "InternalServerError": TryLater(code="internal_server_error"),
    "ServiceUnavailable": TryLater(code="service_unavailable", after=60.0, whole_channel=True),
    "Shutdown": TryLater(code="shutdown", after=60.0, whole_channel=True),
}


def test_no_reason_of_apple_s_table_is_without_a_consequence():
    assert CONSEQUENCES.keys() == STATUS_OF.keys() - {"ExpiredProviderToken"}  # it has its own tests


@pytest.mark.parametrize("reason", CONSEQUENCES)
async def test_every_documented_error_has_its_consequence(apple, connect, make_message, record, reason):
    apple.answers = [reason]
    assert await connect().send(make_message(), record) == CONSEQUENCES[reason]
    assert len(apple.requests) == 1  # no request was repeated
    assert record.times == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (302, ChannelDown(code="http_302")),
        (400, Failed(code="http_400")),
        (403, ChannelDown(code="http_403")),
        (410, BadAddress(code="http_410")),
        (429, TryLater(code="http_429")),
        (500, TryLater(code="http_500")),
        (503, TryLater(code="http_503", after=60.0, whole_channel=True)),
    ],
)
async def test_an_answer_without_a_reason_is_judged_by_its_status(
    apple, connect, make_message, record, status, outcome
):
    apple.answers = [status]
    assert await connect().send(make_message(), record) == outcome


async def test_retry_after_is_heeded(apple, connect, make_message, record):
    apple.answers, apple.headers_of_answers = ["ServiceUnavailable"], [("retry-after", "7")]
    outcome = await connect().send(make_message(), record)
    assert outcome == TryLater(code="service_unavailable", after=7.0, whole_channel=True)


async def test_while_apns_is_overloaded_nothing_is_posted(apple, connect, make_message, record):
    apple.answers = ["ServiceUnavailable"]
    channel = connect()
    await channel.send(make_message(), record)
    outcome = await channel.send(make_message(key="another"), record)
    assert (outcome.code, outcome.whole_channel) == ("service_unavailable", True)
    assert (len(apple.requests), record.times) == (1, 1)


async def test_too_many_for_one_device_holds_up_no_other(apple, connect, make_message, record):
    apple.answers = ["TooManyRequests"]
    channel = connect()
    await channel.send(make_message(), record)
    assert await channel.send(make_message(key="another"), record) == Sent()


async def test_many_messages_share_one_connection_and_arrive_once_each(apple, connect, make_message, record):
    channel = connect(patience=60.0)
    outcomes = await asyncio.gather(*(channel.send(make_message(key=f"m{n}"), record) for n in range(300)))
    assert set(outcomes) == {Sent()}
    assert sorted(p["message_key"] for p in apple.payloads) == sorted(f"m{n}" for n in range(300))
    assert (apple.connections, len(set(apple.tokens))) == (1, 1)


async def test_a_cancelled_send_is_cancelled_and_the_channel_goes_on(apple, connect, make_message, record):
    apple.answers = [HANG]
    channel = connect()
    sending = asyncio.create_task(channel.send(make_message(), record))
    async with asyncio.timeout(60):
        await apple.asked.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await channel.send(make_message(), record) == Sent()


async def test_check_sends_nothing(apple, connect):
    assert await connect().check() == Sent(code="ready")
    assert apple.payloads == []


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("InvalidProviderToken", ChannelDown(code="invalid_provider_token")),
        ("TopicDisallowed", ChannelDown(code="topic_disallowed")),
        ("ServiceUnavailable", TryLater(code="service_unavailable", whole_channel=True)),
        ("DeviceTokenNotForTopic", Sent(code="ready")),
        ("Unregistered", Sent(code="ready")),
    ],
)
async def test_check_says_what_is_wrong(apple, connect, make_message, record, reason, outcome):
    apple.answers = [reason]
    channel = connect()
    assert await channel.check() == outcome
    assert await channel.send(make_message(), record) == Sent()  # the check pauses nothing


async def test_nothing_secret_is_logged_or_shown(apple, connect, make_message, record, caplog):
    caplog.set_level(logging.DEBUG)
    apple.answers = ["BadDeviceToken"]
    channel = connect(include_link=True)
    shown = [repr(await channel.send(make_message(), record)) for _ in range(2)]
    shown += [repr(channel), repr(channel._token), caplog.text]
    for secret in (DEVICE, LINK, apple.tokens[0], KEY_ID, "bearer"):
        assert secret not in " ".join(shown)
