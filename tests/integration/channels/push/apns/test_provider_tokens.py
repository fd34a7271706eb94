"""Provider tokens: one is used for forty minutes. If Apple calls it expired, one new token is made, never a third."""

import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration.channels.push.apns.conftest import pem_of
from worker.channels import ChannelDown, Sent
from worker.channels.push.apns.channel import ApnsChannel
from worker.channels.push.apns.config import ApnsConfig
from worker.errors import SettingsError


class Clock:
    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_a_token_is_used_for_forty_minutes(apple, connect, make_message, record):
    clock = Clock(ahead=-42 * 60)
    channel = connect(clock=clock)
    for minutes in (0, 20, 39, 41):
        clock.ahead = (minutes - 42) * 60
        assert await channel.send(make_message(), record) == Sent()
    first, second, third, fourth = apple.tokens
    assert first == second == third != fourth


async def test_an_expired_token_is_renewed_once_and_the_message_sent(apple, connect, make_message, record):
    apple.answers = ["ExpiredProviderToken"]
    channel = connect()
    assert await channel.send(make_message(), record) == Sent()
    assert (len(apple.requests), record.times) == (2, 1)
    refused, accepted = (request["authorization"] for request in apple.requests)
    assert refused != accepted


async def test_a_clock_that_is_wrong_stops_the_channel(apple, connect, make_message, record):
    channel = connect(clock=Clock(ahead=-2 * 3600))
    assert await channel.send(make_message(), record) == ChannelDown(code="expired_provider_token")
    assert len(apple.requests) == 2
    # Apple allows no third token within twenty minutes.
    assert await channel.send(make_message(), record) == ChannelDown(code="expired_provider_token")
    assert len(apple.requests) == 3
    assert len({request["authorization"] for request in apple.requests}) == 2


async def test_a_clock_that_was_set_back_makes_a_new_token(apple, connect, make_message, record):
    clock = Clock()
    channel = connect(clock=clock)
    await channel.send(make_message(), record)
    clock.ahead = -1800
    assert await channel.send(make_message(), record) == Sent()
    assert len(set(apple.tokens)) == 2


@pytest.mark.parametrize("field", ["key_id", "team_id"])
async def test_a_wrong_identity_stops_the_channel(connect, make_message, record, field):
    channel = connect(**{field: "WRONG12345"})
    assert await channel.send(make_message(), record) == ChannelDown(code="invalid_provider_token")


async def test_a_wrong_key_stops_the_channel(connect, tmp_path, make_message, record):
    file = tmp_path / "other.p8"
    file.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1())))
    assert await connect(key_file=file).send(make_message(), record) == ChannelDown(code="invalid_provider_token")


async def test_a_wrong_topic_stops_the_channel(connect, make_message, record):
    channel = connect(topic="com.acme.other")
    assert await channel.send(make_message(), record) == ChannelDown(code="topic_disallowed")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n",
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    ],
    ids=["empty", "rubbish", "another curve", "RSA"],
)
async def test_a_file_that_is_no_key_is_a_settings_error(connect, tmp_path, content):
    file = tmp_path / "bad.p8"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"APNS_KEY_FILE: expected the \.p8 key file") as caught:
        connect(key_file=file)
    assert "secret" not in str(caught.value)


async def test_a_file_that_is_not_there_is_a_settings_error(connect, tmp_path):
    with pytest.raises(SettingsError, match="APNS_KEY_FILE: cannot be read"):
        connect(key_file=tmp_path / "nowhere.p8")


@pytest.mark.parametrize("field", ["key_id", "team_id", "topic"])
@pytest.mark.parametrize("value", ["", "line\nbreak", "ünicode"])
async def test_what_no_header_can_carry_is_a_settings_error(connect, field, value):
    with pytest.raises(SettingsError, match=f"APNS_{field.upper()}"):
        connect(**{field: value})


async def test_tokens_never_cross_the_network_in_the_clear(connect):
    with pytest.raises(SettingsError, match="must be https"):
        connect(base_url="http://apns.example")


@pytest.mark.parametrize(
    ("sandbox", "url"), [(False, "https://api.push.apple.com"), (True, "https://api.sandbox.push.apple.com")]
)
def test_the_two_environments_have_their_own_addresses(key_file, sandbox, url):
    config = ApnsConfig(key_file=key_file, key_id="K", team_id="T", topic="t", app_name="Acme", sandbox=sandbox)
    assert ApnsChannel(config)._exchange._base_url == url
