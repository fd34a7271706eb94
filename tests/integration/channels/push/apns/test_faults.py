"""Requests without an answer: those that were certainly not processed are retried, all others become `unknown`."""

import asyncio
import ssl

import pytest

from worker.channels import Sent, TryLater, Unknown
from worker.sandbox.phones.apple import DROP, HALF, HANG, LEAVE, LEAVE_UNSEEN, REFUSE, RESET


@pytest.mark.parametrize("fault", [DROP, RESET, LEAVE])
async def test_an_answer_lost_after_the_request_went_out_is_unknown(apple, connect, make_message, record, fault):
    apple.answers = [fault]
    channel = connect()
    assert await channel.send(make_message(), record) == Unknown(code="connection_lost")
    assert len(apple.requests) == 1
    assert await channel.send(make_message(key="another"), record) == Sent()  # the fault pauses nothing


async def test_an_answer_that_never_comes_is_unknown(apple, connect, make_message, record):
    apple.answers = [HANG]
    assert await connect(patience=0.5).send(make_message(), record) == Unknown(code="timeout")


async def test_silence_for_one_message_is_noticed_while_others_are_answered(apple, connect, make_message, record):
    channel = connect(patience=1.0)
    await channel.send(make_message(key="first"), record)
    apple.answers = [HANG]
    apple.asked.clear()
    silent = asyncio.create_task(channel.send(make_message(key="silent"), record))
    async with asyncio.timeout(60):
        await apple.asked.wait()
    while not silent.done():
        assert await channel.send(make_message(key="other"), record) == Sent()
    assert await silent == Unknown(code="timeout")


async def test_a_refused_stream_was_not_processed(apple, connect, make_message, record):
    apple.answers = [REFUSE]
    assert await connect().send(make_message(), record) == TryLater(code="stream_refused")


async def test_a_server_that_leaves_before_the_first_request_did_not_process_it(apple, connect, make_message, record):
    apple.answers = [LEAVE_UNSEEN]
    assert await connect().send(make_message(), record) == TryLater(code="stream_refused")


async def test_a_request_that_a_leaving_server_never_saw_goes_to_another_connection(
    apple, connect, make_message, record
):
    channel = connect()
    await channel.send(make_message(key="first"), record)
    apple.answers = [LEAVE_UNSEEN]
    assert await channel.send(make_message(), record) == Sent()
    assert apple.connections == 2
    assert [payload["message_key"] for payload in apple.payloads] == ["first", make_message().key]


async def test_a_status_says_enough_without_its_body(apple, connect, make_message, record):
    apple.answers = [HALF]
    assert await connect().send(make_message(), record) == Sent()


async def test_apns_out_of_reach_is_tried_later(connect, make_message, record, unused_tcp_port):
    channel = connect(base_url=f"https://127.0.0.1:{unused_tcp_port}")
    outcome = await channel.send(make_message(), record)
    assert outcome == TryLater(code="connect_failed", after=60.0, whole_channel=True)


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(apple, connect, make_message, record):
    outcome = await connect(trusting=None).send(make_message(), record)
    assert outcome == TryLater(code="tls_failed", after=60.0, whole_channel=True)
    assert not apple.requests


async def test_a_certificate_for_another_host_is_not_trusted(apple, connect, make_message, record):
    channel = connect(base_url=apple.url.replace("127.0.0.1", "localhost"))
    assert (await channel.send(make_message(), record)).code == "tls_failed"


async def test_a_server_that_speaks_no_tls_is_tried_later(connect, make_message, record):
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 this is no TLS\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        channel = connect(base_url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert (await channel.send(make_message(), record)).code == "tls_failed"


async def test_a_server_that_speaks_no_http2_is_not_believed(certificate, connect, make_message, record):
    async def speak_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        try:
            await writer.drain()
            await reader.read()
        except (ConnectionError, ssl.SSLError):
            pass
        writer.transport.abort()

    async with await asyncio.start_server(speak_http1, "127.0.0.1", 0, ssl=certificate[0]) as server:
        channel = connect(base_url=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", patience=0.5)
        outcome = await channel.send(make_message(), record)
    assert not isinstance(outcome, Sent)
