"""TLS is required and verified; AUTH is used only with a user name; ``check`` does the same without sending a mail."""

# ruff: noqa: PLR0917 - pytest passes fixtures by name

import base64

import pytest

from worker.channels import ChannelDown, Sent, TryLater
from worker.errors import SettingsError

STARTTLS = "smtp://127.0.0.1:{port}"
IMPLICIT = "smtps://127.0.0.1:{port}"
WITH_USER = "smtp://relay:p%40ss%20w%C3%B6rd@127.0.0.1:{port}?tls=none"
OFFERS_TLS = "250-here\r\n250 STARTTLS"
OFFERS_AUTH = "250-here\r\n250 AUTH PLAIN LOGIN"


async def test_starttls_protects_all_but_the_greeting(serve, connect, make_message, record, certificate):
    server = await serve(tls=certificate[0], EHLO=OFFERS_TLS)
    assert await connect(server, url=STARTTLS, tls_context=certificate[1]).send(make_message(), record) == Sent()
    assert server.verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]


async def test_implicit_tls_protects_everything(serve, connect, make_message, record, certificate):
    server = await serve(tls=certificate[0], implicit_tls=True)
    channel = connect(server, url=IMPLICIT, tls_context=certificate[1])
    assert await channel.send(make_message(), record) == Sent()
    assert server.verbs[:2] == ["EHLO", "MAIL"]


async def test_a_server_without_starttls_stops_the_channel(serve, connect, make_message, record):
    server = await serve(EHLO="250 here")
    assert await connect(server, url=STARTTLS).send(make_message(), record) == ChannelDown(code="starttls_missing")
    assert "MAIL" not in server.verbs


@pytest.mark.parametrize(
    ("reply", "code"), [("454 4.7.0 not now", "tls_454"), ("502 5.5.1 what?", "tls_502"), ("DROP", "tls_disconnected")]
)
async def test_a_starttls_that_fails_is_retried_and_never_skipped(serve, connect, make_message, record, reply, code):
    server = await serve(EHLO=OFFERS_TLS, STARTTLS=reply)
    outcome = await connect(server, url=STARTTLS).send(make_message(), record)
    assert isinstance(outcome, TryLater)
    assert (outcome.code, outcome.whole_channel) == (code, True)
    assert "MAIL" not in server.verbs


@pytest.mark.parametrize(
    ("url", "implicit", "code"), [(STARTTLS, False, "tls_certificate"), (IMPLICIT, True, "connect_certificate")]
)
async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    serve, connect, make_message, record, certificate, url, implicit, code
):
    server = await serve(tls=certificate[0], implicit_tls=implicit, EHLO=OFFERS_TLS)
    outcome = await connect(server, url=url).send(make_message(), record)
    assert isinstance(outcome, TryLater)
    assert outcome.code == code
    assert "MAIL" not in server.verbs


async def test_a_certificate_for_another_host_is_not_trusted(serve, connect, make_message, record, certificate):
    server = await serve(tls=certificate[0], implicit_tls=True)
    channel = connect(server, url="smtps://localhost:{port}", tls_context=certificate[1])
    outcome = await channel.send(make_message(), record)
    assert outcome.code == "connect_certificate"


async def test_a_server_that_speaks_no_tls_is_retried(serve, connect, make_message, record, certificate):
    server = await serve()
    channel = connect(server, url=IMPLICIT, tls_context=certificate[1])
    outcome = await channel.send(make_message(), record)
    assert isinstance(outcome, TryLater)
    assert outcome.code == "connect_handshake"


async def test_without_a_user_name_nobody_authenticates(serve, connect, make_message, record):
    server = await serve(EHLO=OFFERS_AUTH)
    assert await connect(server).send(make_message(), record) == Sent()
    assert "AUTH" not in server.verbs


async def test_a_user_name_authenticates_once_a_connection(serve, connect, make_message, record):
    server = await serve(EHLO=OFFERS_AUTH)
    channel = connect(server, url=WITH_USER)
    for _ in range(3):
        assert await channel.send(make_message(), record) == Sent()
    (said,) = [line for _, line in server.log if line.startswith("AUTH")]
    assert base64.b64decode(said.removeprefix("AUTH PLAIN ")).decode() == "\0relay\0p@ss wörd"


async def test_credentials_go_over_tls_only_after_the_handshake(serve, connect, make_message, record, certificate):
    server = await serve(tls=certificate[0], EHLO=[OFFERS_TLS, OFFERS_AUTH])
    channel = connect(server, url="smtp://relay:secret@127.0.0.1:{port}", tls_context=certificate[1])
    assert await channel.send(make_message(), record) == Sent()
    assert server.verbs[:5] == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL"]


@pytest.mark.parametrize("reply", ["535 5.7.8 wrong", "534 5.7.9 too weak", "530 5.7.0 no", "538 encrypt", "500 what?"])
async def test_refused_credentials_stop_the_channel(serve, connect, make_message, record, reply):
    server = await serve(EHLO=OFFERS_AUTH, AUTH=reply)
    channel = connect(server, url=WITH_USER)
    assert await channel.send(make_message(), record) == ChannelDown(code="auth_refused")
    assert "MAIL" not in server.verbs
    assert record.times == 0


@pytest.mark.parametrize(
    ("reply", "code"), [("454 4.7.0 later", "auth_454"), ("421 4.3.2 bye", None), ("DROP", "auth_disconnected")]
)
async def test_an_authentication_that_fails_for_now_is_retried(serve, connect, make_message, record, reply, code):
    server = await serve(EHLO="250-here\r\n250 AUTH PLAIN", AUTH=reply)
    outcome = await connect(server, url=WITH_USER).send(make_message(), record)
    assert isinstance(outcome, TryLater)
    assert outcome.whole_channel
    assert outcome.code == (code or "auth_421")


@pytest.mark.parametrize("ehlo", ["250 here", "250-here\r\n250 AUTH GSSAPI"])
async def test_a_server_that_offers_no_way_to_authenticate_stops_the_channel(
    serve, connect, make_message, record, ehlo
):
    server = await serve(EHLO=ehlo)
    channel = connect(server, url=WITH_USER)
    assert await channel.send(make_message(), record) == ChannelDown(code="auth_missing")


async def test_check_goes_all_the_way_but_sends_nothing(serve, connect, certificate):
    server = await serve(tls=certificate[0], EHLO=[OFFERS_TLS, OFFERS_AUTH])
    channel = connect(server, url="smtp://relay:secret@127.0.0.1:{port}", tls_context=certificate[1])
    assert await channel.check() == Sent(code="ready")
    assert server.verbs == ["EHLO", "STARTTLS", "EHLO", "AUTH", "NOOP", "QUIT"]
    await server.until(lambda: server.open == 0)


@pytest.mark.parametrize(
    ("replies", "url", "outcome"),
    [
        ({"GREETING": "421 busy"}, WITH_USER, TryLater(code="connect_421", whole_channel=True)),
        ({"EHLO": "250 here"}, STARTTLS, ChannelDown(code="starttls_missing")),
        ({"EHLO": OFFERS_AUTH, "AUTH": "535 no"}, WITH_USER, ChannelDown(code="auth_refused")),
        ({"NOOP": "421 no"}, "smtp://127.0.0.1:{port}?tls=none", TryLater(code="noop_421", whole_channel=True)),
        ({"NOOP": "DROP"}, "smtp://127.0.0.1:{port}?tls=none", TryLater(code="noop_disconnected", whole_channel=True)),
        ({"QUIT": "DROP"}, "smtp://127.0.0.1:{port}?tls=none", Sent(code="ready")),
    ],
)
async def test_check_says_what_is_wrong(serve, connect, replies, url, outcome):
    server = await serve(**replies)
    assert await connect(server, url=url).check() == outcome
    await server.until(lambda: server.open == 0)


async def test_a_check_that_fails_pauses_nothing(serve, connect, make_message, record):
    server = await serve(GREETING=["421 busy", "220 ready"])
    channel = connect(server, first_pause=60.0)
    assert (await channel.check()).code == "connect_421"
    assert await channel.send(make_message(), record) == Sent()


async def test_without_an_smtp_url_there_is_no_channel(connect):
    class Nowhere:
        port = 0

    with pytest.raises(SettingsError, match="SMTP_URL"):
        connect(Nowhere, url="")
