"""An access token is fetched once and used for most of its life. A failure to get one stops or delays the channel."""

# ruff: noqa: PLR0917 - pytest passes fixtures by name

import asyncio
import time

import pytest

from worker.channels import ChannelDown, Sent, TryLater
from worker.channels.push.fcm.access_token import AccessToken
from worker.errors import SettingsError
from worker.sandbox.phones.google import DROP, HANG, PROJECT


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_a_token_is_used_for_55_minutes_of_its_hour(google, connect, make_message, record):
    clock = Clock()
    channel = connect(clock=clock)
    for minutes, requests in ((0, 1), (54, 1), (56, 2), (56 + 54, 2), (56 + 56, 3)):
        clock.ahead = minutes * 60
        assert await channel.send(make_message(), record) == Sent()
        assert google.token_requests == requests


async def test_a_token_of_a_short_life_is_used_for_most_of_it(google, connect, make_message, record):
    google.expires_in = "120"  # a string, as some services send it
    clock = Clock()
    channel = connect(clock=clock)
    for seconds, requests in ((0, 1), (100, 1), (115, 2)):
        clock.ahead = seconds
        await channel.send(make_message(), record)
        assert google.token_requests == requests


async def test_a_cancelled_message_takes_no_token_from_the_others(google, connect, make_message, record):
    google.token_gate = asyncio.Event()
    channel = connect()
    first, second = (asyncio.create_task(channel.send(make_message(key=key), record)) for key in "ab")
    async with asyncio.timeout(60):
        await google.token_asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    google.token_gate.set()
    assert await second == Sent()
    assert google.token_requests == 1


async def test_after_401_the_next_message_gets_another_token(google, connect, make_message, record):
    channel = connect()
    await channel.send(make_message(), record)
    google.issued.clear()  # Google revokes the token
    assert await channel.send(make_message(), record) == ChannelDown(code="http_401")
    assert await channel.send(make_message(), record) == Sent()
    assert google.token_requests == 2


async def test_a_key_that_google_does_not_know_stops_the_channel(google, connect, key_file, make_message, record):
    channel = connect(service_account_file=key_file(client_email="someone@else.example"))
    assert await channel.send(make_message(), record) == ChannelDown(code="token_400")
    assert record.times == 0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((401, '{"error": "invalid_client"}', {}), ChannelDown(code="token_401")),
        ((302, "", {"Location": "/elsewhere"}), ChannelDown(code="token_302")),
        ((429, "{}", {"Retry-After": "9"}), TryLater(code="token_429", after=9.0, whole_channel=True)),
        ((500, "oops", {}), TryLater(code="token_500", after=60.0, whole_channel=True)),
        ((503, '{"error": "temporarily_unavailable"}', {}), TryLater(code="token_503", after=60.0, whole_channel=True)),
        ((200, "<html>Please sign in", {}), TryLater(code="token_garbled", after=60.0, whole_channel=True)),
        ((200, "{}", {}), TryLater(code="token_garbled", after=60.0, whole_channel=True)),
        ((200, '{"access_token": "ya29.x"}', {}), TryLater(code="token_garbled", after=60.0, whole_channel=True)),
        (DROP, TryLater(code="token_unreachable", after=60.0, whole_channel=True)),
    ],
)
async def test_without_a_token_nothing_is_sent(google, connect, make_message, record, answer, outcome):
    google.token_answers = [answer]
    assert await connect().send(make_message(), record) == outcome
    assert (google.token_requests, google.requests, record.times) == (1, [], 0)


async def test_messages_that_wait_for_one_token_share_its_failure(google, connect, make_message, record):
    google.token_answers = [(400, '{"error": "invalid_grant"}', {})]
    channel = connect()
    outcomes = await asyncio.gather(*(channel.send(make_message(), record) for _ in range(20)))
    assert set(outcomes) == {ChannelDown(code="token_400")}
    assert google.token_requests == 1


async def test_check_asks_for_a_token_and_sends_nothing(google, connect):
    assert await connect().check() == Sent(code="ready")
    assert (google.token_requests, len(google.requests), google.messages) == (1, 1, [])


@pytest.mark.parametrize(
    ("token_answers", "answers", "outcome"),
    [
        ([(400, "{}", {})], [], ChannelDown(code="token_400")),
        ([], [(403, "{}", {})], ChannelDown(code="http_403")),
        ([], [(404, "<html>", {})], ChannelDown(code="http_404")),
        ([], [(503, "", {})], TryLater(code="http_503", whole_channel=True)),
        ([], [(400, "{}", {})], Sent(code="ready")),
    ],
)
async def test_check_says_what_is_wrong(google, connect, token_answers, answers, outcome):
    google.token_answers, google.answers = token_answers, answers
    assert await connect().check() == outcome


async def test_a_check_pauses_nothing(google, connect, make_message, record):
    google.answers = [(503, "", {})]
    channel = connect()
    await channel.check()
    assert await channel.send(make_message(), record) == Sent()


async def test_a_channel_can_be_closed_while_a_token_is_on_its_way(google, connect, make_message, record):
    google.token_answers = [HANG]
    channel = connect()
    sending = asyncio.create_task(channel.send(make_message(), record))
    async with asyncio.timeout(60):
        await google.token_asked.wait()
    closing = asyncio.create_task(channel.close())
    google.closing.set()
    await closing
    assert (await sending).code == "token_unreachable"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"project_id": None}, "FCM_SERVICE_ACCOUNT_FILE: expected the JSON key"),
        ({"private_key": "-----BEGIN RSA PRIVATE KEY-----\nsecret\n-----END RSA PRIVATE KEY-----"}, "private_key"),
        ({"client_email": None}, "FCM_SERVICE_ACCOUNT_FILE"),
    ],
)
async def test_a_file_that_is_no_key_is_a_settings_error(connect, key_file, overrides, says):
    with pytest.raises(SettingsError, match=says) as caught:
        connect(service_account_file=key_file(**overrides))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "not json", '{"type": "authorized_user"}'])
async def test_a_file_with_something_else_is_a_settings_error(connect, tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match="expected the JSON key of a service account"):
        connect(service_account_file=file)


async def test_a_file_that_is_not_there_is_a_settings_error(connect, tmp_path):
    with pytest.raises(SettingsError, match="FCM_SERVICE_ACCOUNT_FILE: cannot be read"):
        connect(service_account_file=tmp_path / "nowhere.json")


@pytest.mark.parametrize("field", ["token_uri", "base_url"])
async def test_keys_and_tokens_never_cross_the_network_in_the_clear(connect, field):
    with pytest.raises(SettingsError, match="must be https"):
        connect(**{field: "http://fcm.example"})


async def test_the_token_is_google_s_own_and_the_project_the_file_s(connect):
    channel = connect()
    assert isinstance(await channel._account.token(), AccessToken)
    assert channel._account.project_id == PROJECT
