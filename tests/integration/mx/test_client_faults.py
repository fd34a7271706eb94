"""The client against a server that breaks HTTP and TCP in many ways."""

import asyncio
import gzip
import itertools
import random
import time
import zlib

import pytest

from tests.integration.mx.servers import BODY, MEMBER, URI, USER, http, reset
from worker.mx.answers import MemberState, RetryLater, Window

WINDOW = Window(uri=URI, member=MemberState(guid=MEMBER, connection_status="DENIED"))


def sending(data: bytes, *, hang_up: bool = True):
    async def answer(writer, _n):
        writer.write(data)
        return hang_up

    return answer


async def hang_up_without_a_word(_writer, _n):
    return True


async def reset_at_once(writer, _n):
    reset(writer)


async def reset_within_the_body(writer, _n):
    writer.write(http()[:-30])
    await writer.drain()
    reset(writer)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIPPED = gzip.compress(BODY)


#: By fault: the answer, and the codes that it may get.
BROKEN = {
    "no answer": (hang_up_without_a_word, {"connection_lost"}),
    "a reset instead of an answer": (reset_at_once, {"connection_lost"}),
    "half a header": (sending(b"HTTP/1.1 200 OK\r\nContent-Le"), {"connection_lost"}),
    "a body cut short": (sending(http()[:-30]), {"truncated"}),
    "a reset within the body": (reset_within_the_body, {"truncated", "connection_lost"}),
    "a chunk cut short": (sending(CHUNKED + b"20\r\n" + BODY[:10]), {"truncated"}),
    "no last chunk": (sending(CHUNKED + b"%x\r\n%s\r\n" % (len(BODY), BODY)), {"truncated"}),
    "a chunk of no size": (sending(CHUNKED + b"zz\r\n"), {"truncated", "not_http"}),
    "half of a gzip": (sending(http(GZIPPED[:-20], headers="Content-Encoding: gzip\r\n")), {"truncated", "not_json"}),
    "no gzip": (sending(http(BODY, headers="Content-Encoding: gzip\r\n")), {"truncated"}),
    "half a body of unknown length": (sending(b"HTTP/1.0 200 OK\r\n\r\n" + BODY[:-30]), {"not_json"}),
    "no body": (sending(b"HTTP/1.0 200 OK\r\n\r\n"), {"not_json"}),
    "rubbish": (sending(b"\x00\x01\x02 rubbish\r\n\r\n"), {"not_http"}),
    "another protocol": (sending(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), {"not_http"}),
    "a status in words": (sending(b"HTTP/1.1 two hundred\r\n\r\n"), {"not_http"}),
    "a header without a colon": (sending(b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n"), {"not_http"}),
    "a header of 100 kB": (sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), {"not_http"}),
    "a negative length": (sending(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), {"not_http"}),
}


async def test_a_broken_answer_is_tried_four_times_and_told_as_a_value(wire_mx):
    started = {what: await wire_mx(answer) for what, (answer, _) in BROKEN.items()}
    answers = await asyncio.gather(*(client.oauth_window(USER, MEMBER) for _, client in started.values()))
    assert all(isinstance(answer, RetryLater) and answer.upstream for answer in answers)
    codes = {what: answer.code for what, answer in zip(started, answers, strict=True)}
    assert {what: code for what, code in codes.items() if code not in BROKEN[what][1]} == {}
    assert {what: len(wire.heads) for what, (wire, _) in started.items()} == dict.fromkeys(BROKEN, 4)


@pytest.mark.parametrize("broken", [hang_up_without_a_word, reset_at_once, reset_within_the_body])
async def test_a_connection_that_breaks_once_costs_one_more_request_and_no_answer(wire_mx, broken):
    async def answer(writer, n):
        if n == 1:
            return await broken(writer, n)
        return writer.write(http())

    wire, client = await wire_mx(answer)
    assert await client.oauth_window(USER, MEMBER) == WINDOW
    assert len(wire.heads) == 2


async def test_a_kept_connection_that_was_closed_meanwhile_costs_no_answer(wire_mx):
    async def answer(writer, _n):
        writer.write(http())
        return True

    wire, client = await wire_mx(answer)
    for _ in range(5):
        assert await client.oauth_window(USER, MEMBER) == WINDOW
    assert wire.connections >= 5


async def endless(writer, _n):
    writer.write(CHUNKED)
    while True:
        writer.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        await writer.drain()


async def endless_without_a_length(writer, _n):
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 0x8000)
        await writer.drain()


def bomb(encoding: str) -> bytes:
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    return http(packed, headers=f"Content-Encoding: {encoding}\r\n")


@pytest.mark.parametrize(
    "make",
    [
        lambda: endless,
        lambda: endless_without_a_length,
        lambda: sending(http(b" " * 300_000)),
        lambda: sending(bomb("gzip")),
        lambda: sending(bomb("deflate")),
    ],
    ids=["endless", "endless without a length", "large", "gzip bomb", "deflate bomb"],
)
async def test_an_answer_that_is_too_large_is_dropped_with_its_connection(wire_mx, make):
    wire, client = await wire_mx(make())
    # Whoever read on would come to the deadline, and call it a timeout.
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="too_large")
    assert len(wire.heads) == 1


async def test_a_large_answer_below_the_limit_is_read(wire_mx):
    _, client = await wire_mx(sending(http(BODY + b" " * 250_000)))
    assert await client.oauth_window(USER, MEMBER) == WINDOW


async def say_nothing(_writer, _n):
    await asyncio.sleep(30)


async def drip(writer, _n):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_headers(writer, _n):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for n in itertools.count():
        writer.write(b"X-%d: x\r\n" % n)
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("answer", [say_nothing, drip, drip_headers])
async def test_a_slow_answer_is_a_timeout_within_the_deadline(wire_mx, answer):
    _, client = await wire_mx(answer, deadline=2)
    started = time.monotonic()
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="timeout")
    assert time.monotonic() - started < 15


async def test_nobody_listening_is_a_failure_to_connect(client_for, unused_tcp_port):
    client = client_for(f"http://127.0.0.1:{unused_tcp_port}")
    assert await client.oauth_window(USER, MEMBER) == RetryLater(code="connect_failed")


async def test_an_interim_answer_is_not_taken_for_the_answer(wire_mx):
    _, client = await wire_mx(sending(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + http()))
    assert await client.oauth_window(USER, MEMBER) == WINDOW


async def test_bytes_after_an_answer_are_never_taken_for_the_next(wire_mx):
    stale = http(BODY.replace(b"state=", b"state=stale"))

    async def answer(writer, n):
        writer.write(http() + stale if n == 1 else http())

    _, client = await wire_mx(answer)
    for _ in range(3):
        assert await client.oauth_window(USER, MEMBER) == WINDOW


async def test_random_damage_to_an_answer_never_raises(wire_mx):
    rng = random.Random(20261123)
    wholes = [http(), http(GZIPPED, headers="Content-Encoding: gzip\r\n"), CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n"]

    async def damaged(writer, _n):
        whole = bytearray(rng.choice(wholes))
        for _ in range(rng.randint(1, 12)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        writer.write(bytes(whole[: rng.randint(1, len(whole))]))
        return True

    _, client = await wire_mx(damaged)
    answers = await asyncio.gather(*(client.oauth_window(USER, MEMBER) for _ in range(300)))
    assert not [
        answer
        for answer in answers
        if getattr(answer, "code", "").startswith("unexpected_") and answer.code != "unexpected_shape"
    ]
