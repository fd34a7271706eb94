"""What a mail server does wrong in each phase, and the outcome for the message."""

# ruff: noqa: PLR0917 - pytest passes fixtures by name

import asyncio
import logging
import socket
import traceback
from dataclasses import replace

import pytest

from worker.channels import BadAddress, ChannelDown, Failed, Sent, TryLater, Unknown


def everyone_later(code):
    return TryLater(code=code, whole_channel=True)


async def outcome_of(channel, message, record):
    """Send the message; returns the outcome without the length of its pause."""
    outcome = await channel.send(message, record)
    return replace(outcome, after=None) if isinstance(outcome, TryLater) else outcome


BEFORE_DATA = [
    ({"GREETING": "421 4.3.2 too busy"}, everyone_later("connect_421")),
    ({"GREETING": "554 5.7.1 not you"}, everyone_later("connect_554")),
    ({"GREETING": "DROP"}, everyone_later("connect_disconnected")),
    ({"GREETING": "hello there"}, everyone_later("connect_garbled")),
    ({"EHLO": "DROP"}, everyone_later("ehlo_disconnected")),
    ({"EHLO": "502 5.5.1 what?"}, everyone_later("ehlo_502")),
    ({"EHLO": "421 4.3.2 closing"}, everyone_later("ehlo_421")),
    ({"MAIL": "DROP"}, TryLater(code="mail_disconnected")),
    ({"MAIL": "421 4.3.2 closing"}, everyone_later("mail_421")),
    ({"MAIL": "451 4.3.0 later"}, everyone_later("mail_451")),
    ({"MAIL": "454 4.7.0 throttled"}, everyone_later("mail_454")),
    ({"MAIL": "530 5.7.0 authenticate first"}, ChannelDown(code="auth_refused")),
    ({"MAIL": "553 5.7.1 not your sender"}, ChannelDown(code="mail_553")),
    ({"MAIL": "552 5.3.4 too big"}, Failed(code="mail_552")),
    ({"MAIL": "gibberish"}, TryLater(code="mail_garbled")),
    ({"RCPT": "DROP"}, TryLater(code="rcpt_disconnected")),
    ({"RCPT": "gibberish"}, TryLater(code="rcpt_garbled")),
    ({"RCPT": "421 4.3.2 closing"}, everyone_later("rcpt_421")),
    ({"RCPT": "450 4.2.0 greylisted"}, TryLater(code="rcpt_450")),
    ({"RCPT": "452 4.2.2 full"}, TryLater(code="rcpt_452")),
    ({"RCPT": "454 4.7.1 slow down"}, everyone_later("rcpt_454")),
    ({"RCPT": "550 5.1.1 <customer@example.com> unknown"}, BadAddress(code="rcpt_550")),
    ({"RCPT": "550-5.1.1 no such user,\r\n550 5.1.1 try another"}, BadAddress(code="rcpt_550")),
    ({"RCPT": "553 5.1.3 bad syntax"}, BadAddress(code="rcpt_553")),
    ({"RCPT": "556 5.1.10 null MX"}, BadAddress(code="rcpt_556")),
    ({"RCPT": "550 no such user"}, Failed(code="rcpt_550")),
    ({"RCPT": "550 5.7.1 blocked"}, Failed(code="rcpt_550")),
    ({"RCPT": "552 5.2.2 full"}, Failed(code="rcpt_552")),
]

AT_DATA = [
    ({"DATA": "450 4.3.0 later"}, TryLater(code="start_450")),
    ({"DATA": "421 4.3.2 closing"}, everyone_later("start_421")),
    ({"DATA": "554 5.5.1 no valid recipients"}, Failed(code="start_554")),
    ({"DATA": "250 out of turn"}, TryLater(code="start_garbled")),
    ({"DATA": "DROP"}, TryLater(code="start_disconnected")),
    ({"INSIDE": "DROP"}, Unknown(code="data_disconnected")),
    ({"CONTENT": "DROP"}, Unknown(code="data_disconnected")),
    ({"CONTENT": "gibberish"}, Unknown(code="data_garbled")),
    ({"CONTENT": "451 4.3.0 later"}, TryLater(code="data_451")),
    ({"CONTENT": "421 4.3.2 closing"}, everyone_later("data_421")),
    ({"CONTENT": "454 4.7.0 throttled"}, everyone_later("data_454")),
    ({"CONTENT": "554 5.6.0 no"}, Failed(code="data_554")),
    ({"CONTENT": "550 5.1.1 unknown"}, Failed(code="data_550")),
]


def named(cases):
    return [
        pytest.param(*case, id=" ".join(f"{verb} {reply[:24]}" for verb, reply in case[0].items())) for case in cases
    ]


@pytest.mark.parametrize(("replies", "outcome"), named(BEFORE_DATA))
async def test_what_ends_before_data_was_certainly_not_sent(serve, connect, make_message, record, replies, outcome):
    server = await serve(**replies)
    assert await outcome_of(connect(server), make_message(), record) == outcome
    assert "DATA" not in server.verbs
    assert record.times == 0


@pytest.mark.parametrize(("replies", "outcome"), named(AT_DATA))
async def test_what_ends_after_data_began_is_judged_by_whether_there_was_an_answer(
    serve, connect, make_message, record, replies, outcome
):
    server = await serve(**replies)
    assert await outcome_of(connect(server), make_message(), record) == outcome
    assert record.times == 1


@pytest.mark.parametrize("verb", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA"])
async def test_silence_before_data_is_retried(serve, connect, make_message, record, verb):
    server = await serve(**{verb: "HANG"})
    outcome = await connect(server, command_patience=0.2).send(make_message(), record)
    phase = {"GREETING": "connect", "DATA": "start"}.get(verb, verb.lower())
    assert isinstance(outcome, TryLater)
    assert outcome.code == f"{phase}_timeout"


@pytest.mark.parametrize("verb", ["INSIDE", "CONTENT"])
async def test_silence_after_the_content_began_is_unknown(serve, connect, make_message, record, verb):
    server = await serve(**{verb: "HANG"})
    assert await connect(server, data_patience=0.2).send(make_message(), record) == Unknown(code="data_timeout")


async def test_patience_with_the_content_is_not_that_with_commands(serve, connect, make_message, record):
    server = await serve(CONTENT="HANG")
    channel = connect(server, command_patience=0.2, data_patience=60.0)
    sending = asyncio.create_task(channel.send(make_message(), record))
    await server.until(lambda: "CONTENT" in server.verbs)
    done, _ = await asyncio.wait([sending], timeout=0.6)
    assert not done
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_a_server_that_is_not_there_is_retried(connect, make_message, record):
    with socket.create_server(("127.0.0.1", 0)) as nobody:

        class Nowhere:
            port = nobody.getsockname()[1]

    assert await outcome_of(connect(Nowhere), make_message(), record) == everyone_later("connect_refused")
    assert record.times == 0


@pytest.mark.parametrize("refusal", ["RCPT", "DATA", "CONTENT"])
async def test_a_refused_mail_is_reset_and_the_connection_carries_the_next(
    serve, connect, make_message, record, refusal
):
    accepted = {"RCPT": "250 ok", "DATA": "354 go", "CONTENT": "250 ok"}[refusal]
    server = await serve(**{refusal: ["550 5.7.1 no", accepted]})
    channel = connect(server)
    assert await channel.send(make_message(), record) == Failed(
        code={"RCPT": "rcpt_550", "DATA": "start_550", "CONTENT": "data_550"}[refusal]
    )
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 1
    verbs = server.verbs
    assert verbs[verbs.index("MAIL") + 1 :].index("RSET") < verbs[verbs.index("MAIL") + 1 :].index("MAIL")


async def test_a_connection_that_cannot_be_reset_is_closed(serve, connect, make_message, record):
    server = await serve(RCPT=["450 later", "250 ok"], RSET="500 what?")
    channel = connect(server)
    assert await channel.send(make_message(), record) == TryLater(code="rcpt_450")
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 2


async def test_a_refused_sender_stops_a_queue_from_knocking(serve, connect, make_message, record):
    server = await serve(MAIL="550 5.7.1 no")
    channel = connect(server, connections=1, first_pause=60.0)
    outcomes = await asyncio.gather(*(channel.send(make_message(), record) for _ in range(20)))
    assert outcomes == [ChannelDown(code="mail_550")] * 20
    assert server.verbs.count("MAIL") == 1


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "CONTENT"])
@pytest.mark.parametrize("code", [421, 454])
async def test_421_and_454_pause_the_whole_pool(serve, connect, make_message, record, at, code):
    server = await serve(**{at: f"{code} 4.7.0 slow down"})
    channel = connect(server, connections=2, first_pause=60.0)
    first = await channel.send(make_message(), record)
    seen = list(server.log)
    second = await channel.send(make_message(), record)
    for outcome in (first, second):
        assert isinstance(outcome, TryLater)
        assert outcome.whole_channel
        assert 50 < outcome.after <= 60
    assert server.log == seen


async def test_mail_flows_again_after_the_pause(serve, connect, make_message, record):
    server = await serve(MAIL=["421 4.3.2 busy", "250 ok"])
    channel = connect(server, first_pause=1.0)
    outcome = await channel.send(make_message(), record)
    assert 0 < outcome.after <= 1.0
    async with asyncio.timeout(60):
        while isinstance(outcome, TryLater):
            await asyncio.sleep(outcome.after)
            outcome = await channel.send(make_message(), record)
    assert outcome == Sent()


@pytest.mark.parametrize(
    "replies",
    [
        {"GREETING": "554 <customer@example.com>"},
        {"MAIL": "550 <customer@example.com>"},
        {"MAIL": "customer@example.com"},
        {"RCPT": "550 5.1.1 <customer@example.com>"},
        {"RCPT": "450 <customer@example.com>"},
        {"RCPT": "customer@example.com"},
        {"RCPT": "DROP"},
        {"DATA": "554 <customer@example.com>"},
        {"CONTENT": "554 <customer@example.com>"},
        {"CONTENT": "customer@example.com"},
        {"CONTENT": "DROP"},
        {"AUTH": "535 <customer@example.com>"},
        {},
    ],
)
async def test_no_log_and_no_outcome_holds_an_address_a_link_or_a_password(
    serve, connect, make_message, record, caplog, capfd, replies
):
    asyncio.get_running_loop().set_debug(True)
    caplog.set_level(logging.DEBUG)
    server = await serve(**{"EHLO": "250-here\r\n250 AUTH PLAIN LOGIN", **replies})
    channel = connect(server, url="smtp://relay:hunter2%21@127.0.0.1:{port}?tls=none")
    message = make_message()
    outcome = await channel.send(message, record)
    await channel.close()
    shown = caplog.text + repr(outcome) + repr(message) + repr(vars(channel)) + "".join(capfd.readouterr())
    assert "AUTH" in server.verbs or "GREETING" in replies
    for secret in ("customer", "hunter2", "state=", "mxbank"):
        assert secret not in shown


async def test_an_error_of_our_own_on_the_way_holds_no_address(serve, connect, make_message):
    server = await serve(DATA="550 <customer@example.com>")

    async def dispatching():
        raise OSError("the database went away")

    with pytest.raises(OSError, match="database") as failure:
        await connect(server).send(make_message(), dispatching)
    assert "customer" not in "".join(traceback.format_exception(failure.value))
