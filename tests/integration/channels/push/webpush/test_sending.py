"""The messages that a browser gets, and the outcome after each answer of its push service."""

# ruff: noqa: PLR0917 - pytest passes fixtures by name

import asyncio
import json
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.channels.push.webpush.conftest import LINK, pem_of
from worker.channels import BadAddress, ChannelDown, DurableLink, Failed, Sent, TryLater, Unknown
from worker.errors import SettingsError
from worker.sandbox.phones.browser import Browser, encoded
from worker.sandbox.phones.push_service import DROP, HANG, OTHER_KEY_ANSWERS

BASE = "https://reconnect.example.com"


async def test_a_message_reaches_the_browser_and_nobody_else_can_read_it(
    service, browser, connect, make_message, record
):
    assert await connect().send(make_message(), record) == Sent()
    (body,) = service.bodies
    assert browser.read(body) == {
        "title": "Reconnect First Bank",
        "body": "Acme no longer receives data from First Bank. Open Acme to connect it again.",
        "lang": "en",
        "tag": make_message().key,
        "data": {"message_key": make_message().key},
    }
    assert b"First Bank" not in body
    assert record.times == 1


async def test_the_push_service_learns_who_we_are_and_how_long_to_keep_it(service, connect, make_message, record):
    await connect(ttl=3600).send(make_message(), record)
    (request,), (claims,) = service.requests, service.claims
    assert (request.headers["TTL"], request.headers["Topic"]) == ("3600", make_message().key)
    assert (claims["aud"], claims["sub"]) == (service.url, "mailto:push@acme.example")
    assert 0 < claims["exp"] - time.time() <= 86_400


async def test_a_message_is_kept_for_a_browser_that_is_closed_unless_told_otherwise(
    service, connect, make_message, record
):
    await connect().send(make_message(), record)
    assert int(service.requests[0].headers["TTL"]) > 0


async def test_every_try_of_a_message_has_its_topic_and_no_other_message_has_it(service, connect, make_message, record):
    for key in ("reconnection-7/0/webpush " + "x" * 100, "reconnection-7/0/webpush " + "x" * 100, "another"):
        assert await connect().send(make_message(key=key), record) == Sent()
    topics = [request.headers["Topic"] for request in service.requests]
    assert topics[0] == topics[1] != topics[2]


async def test_the_link_travels_only_where_that_was_chosen(service, browser, connect, make_message, record):
    await connect().send(make_message(), record)
    await connect(include_link=True).send(make_message(), record)
    without, with_link = (browser.read(body) for body in service.bodies)
    assert LINK not in str(without)
    assert with_link["data"]["link"] == LINK


@pytest.mark.parametrize("include_link", [False, True])
async def test_our_own_link_travels_whatever_was_chosen_and_leads_to_all_banks(
    service, browser, connect, make_message, record, include_link
):
    ours = DurableLink(page=f"{BASE}/r/token", unsubscribe=f"{BASE}/u/token", until=datetime(2026, 12, 1, tzinfo=UTC))
    banks = tuple(replace(make_message().banks[0], name=name, link=ours.page) for name in ("First Bank", "Second Bank"))
    assert (
        await connect(include_link=include_link).send(replace(make_message(banks=banks), link=ours), record) == Sent()
    )
    assert browser.read(service.bodies[0])["data"]["link"] == ours.page


async def test_a_payload_never_grows_too_large(service, browser, connect, make_message, record):
    message = make_message(bank="第一銀行" * 2000, link="https://bank.example/" + "x" * 4096)
    assert await connect(include_link=True).send(message, record) == Sent()
    assert "link" not in browser.read(service.bodies[0])["data"]


async def test_the_largest_payload_that_goes_out_is_taken(service, browser, connect, make_message, record):
    channel = connect(include_link=True)
    link = "https://bank.example/"
    room = 3993 - len(channel._payload(make_message(link=link)))
    assert await channel.send(make_message(link=link + "x" * room), record) == Sent()
    assert len(service.bodies[0]) == 4096
    assert "link" in browser.read(service.bodies[0])["data"]


async def test_keys_with_padding_are_understood(service, connect, make_message, record):
    browser = Browser(f"{service.url}/wpush/v2/t0ken")
    info = json.loads(browser.subscription())
    info["keys"] = {name: key + "=" * (-len(key) % 4) for name, key in info["keys"].items()}
    assert await connect().send(make_message(address=json.dumps(info)), record) == Sent()
    assert browser.read(service.bodies[0])["title"]


async def test_over_tls_too(serve, certificate, connect, make_message, record):
    service = await serve(ssl=certificate[0])
    message = make_message(address=Browser(f"{service.url}/wpush/v2/t0ken").subscription())
    assert await connect(trusting=certificate[1]).send(message, record) == Sent()
    outcome = await connect().send(message, record)  # the certificate is not trusted
    assert outcome == TryLater(code="tls_failed")
    assert len(service.requests) == 1


async def test_the_dispatch_is_on_record_before_anything_is_posted(service, connect, make_message):
    asked = []

    async def dispatching() -> None:
        assert not service.requests
        asked.append(True)

    assert await connect().send(make_message(), dispatching) == Sent()
    assert asked == [True]


async def test_what_dispatching_raises_passes_and_nothing_is_posted(service, connect, make_message):
    class LeaseLostError(Exception):
        pass

    async def dispatching() -> None:
        raise LeaseLostError

    with pytest.raises(LeaseLostError):
        await connect().send(make_message(), dispatching)
    assert not service.requests


async def test_a_message_about_nothing_is_never_sent(connect, make_message, record):
    assert await connect().send(make_message(banks=()), record) == Failed(code="no_banks")


async def test_a_subscription_that_is_over_is_a_bad_address(service, connect, make_message, record):
    service.gone.add("t0ken")
    assert await connect().send(make_message(), record) == BadAddress(code="http_410")


async def test_a_subscription_that_never_was_is_a_bad_address(service, connect, make_message, record):
    service.tokens.clear()
    assert await connect().send(make_message(), record) == BadAddress(code="http_404")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Sent()),
        (202, Sent()),
        (204, Sent()),
        (400, Failed(code="http_400")),
        (401, ChannelDown(code="http_401")),
        (403, ChannelDown(code="http_403")),
        (404, BadAddress(code="http_404")),
        (410, BadAddress(code="http_410")),
        (413, Failed(code="http_413")),
        (429, TryLater(code="http_429")),
        (500, TryLater(code="http_500")),
        (502, TryLater(code="http_502")),
        (503, TryLater(code="http_503")),
    ],
)
async def test_every_documented_answer_has_its_consequence(service, connect, make_message, record, status, outcome):
    service.answers = [(status, "")]
    assert await connect().send(make_message(), record) == outcome
    assert len(service.requests) == 1  # no request was repeated
    assert record.times == 1


async def test_retry_after_is_heeded(service, connect, make_message, record):
    service.answers, service.headers_of_answers = [(429, "")], {"Retry-After": "121"}
    assert await connect().send(make_message(), record) == TryLater(code="http_429", after=121.0)


async def test_one_push_service_that_wants_us_to_wait_holds_up_no_other(service, connect, make_message, record):
    service.answers = [(429, "")]
    channel = connect()
    await channel.send(make_message(), record)
    assert await channel.send(make_message(), record) == Sent()


@pytest.mark.parametrize("answer", OTHER_KEY_ANSWERS, ids=["Google", "Mozilla", "Apple"])
async def test_a_subscription_to_another_key_fails_alone(service, connect, make_message, record, answer):
    service.answers = [answer]
    assert await connect().send(make_message(), record) == Failed(code="vapid_key_mismatch")


async def test_the_wrong_key_file_wipes_no_subscription(connect, tmp_path, make_message, record):
    file = tmp_path / "other.pem"
    file.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    assert await connect(vapid_key_file=file).send(make_message(), record) == Failed(code="vapid_key_mismatch")


async def test_an_endpoint_that_refuses_us_does_not_stop_a_channel_that_works(service, connect, make_message, record):
    channel = connect()
    assert await channel.send(make_message(), record) == Sent()
    service.answers = [(403, "")]
    assert await channel.send(make_message(), record) == TryLater(code="http_403")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(service, connect, make_message, record, status):
    service.answers, service.headers_of_answers = [(status, "")], {"Location": f"{service.url}/wpush/v2/t0ken"}
    assert await connect().send(make_message(), record) == Failed(code=f"http_{status}")
    assert len(service.requests) == 1


async def test_an_answer_lost_after_the_request_went_out_is_unknown(service, connect, make_message, record):
    service.answers = [DROP]
    assert await connect().send(make_message(), record) == Unknown(code="connection_lost")


async def test_an_answer_that_never_comes_is_unknown(service, connect, make_message, record):
    service.answers = [HANG]
    assert await connect(patience=0.3).send(make_message(), record) == Unknown(code="timeout")


async def test_a_push_service_out_of_reach_is_tried_later(connect, make_message, record, unused_tcp_port):
    message = make_message(address=Browser(f"http://127.0.0.1:{unused_tcp_port}/t").subscription())
    assert await connect().send(message, record) == TryLater(code="connect_failed")


async def test_an_endless_answer_is_cut(connect, make_message, record):
    async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 201 Created\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 10_000)
                await writer.drain()
        except ConnectionError:
            writer.transport.abort()

    async with await asyncio.start_server(go_on, "127.0.0.1", 0) as server:
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/t"
        assert await connect().send(make_message(address=Browser(endpoint).subscription()), record) == Sent()


async def test_a_cancelled_send_is_cancelled_and_the_channel_goes_on(service, connect, make_message, record):
    service.answers = [HANG]
    channel = connect()
    sending = asyncio.create_task(channel.send(make_message(), record))
    async with asyncio.timeout(60):
        await service.asked.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await channel.send(make_message(), record) == Sent()


async def test_many_messages_at_once_arrive_once_each(service, browser, connect, make_message, record):
    channel = connect()
    outcomes = await asyncio.gather(*(channel.send(make_message(key=f"m{n}"), record) for n in range(100)))
    assert set(outcomes) == {Sent()}
    assert sorted(browser.read(body)["tag"] for body in service.bodies) == sorted(f"m{n}" for n in range(100))


async def test_nothing_secret_is_logged_or_shown(service, browser, connect, make_message, record, caplog):
    caplog.set_level(logging.DEBUG)
    service.answers = [(400, browser.endpoint), DROP]
    channel = connect(include_link=True)
    shown = [repr(await channel.send(make_message(), record)) for _ in range(3)]
    shown += [
        repr(channel),
        caplog.text.replace('"POST /wpush/v2/t0ken', ""),
    ]  # the access log of the simulated service holds the path
    for secret in ("t0ken", LINK, json.loads(browser.subscription())["keys"]["auth"], "vapid t="):
        assert secret not in " ".join(shown)


async def test_check_says_that_key_and_contact_can_be_used(connect):
    assert await connect().check() == Sent(code="ready")


async def test_a_key_as_a_number_is_understood(connect, key, tmp_path, make_message, record):
    file = tmp_path / "vapid.txt"
    file.write_text(encoded(key.private_numbers().private_value.to_bytes(32, "big")) + "\n")
    assert await connect(vapid_key_file=file).send(make_message(), record) == Sent()


async def test_a_missing_key_file_is_a_settings_error_and_stays_missing(connect, tmp_path):
    with pytest.raises(SettingsError, match="WEBPUSH_VAPID_KEY_FILE: cannot be read"):
        connect(vapid_key_file=tmp_path / "nowhere.pem")
    assert not (tmp_path / "nowhere.pem").exists()
