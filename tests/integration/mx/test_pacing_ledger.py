"""The shared ledger of permits, in a real Valkey."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TimedOut

from worker.mx.pacing.ledger import _TIMEOUT, HORIZON, KEY, LONGEST_BLOCK, RedisLedger

INTERVAL = 0.01


@pytest.fixture
async def ledgers(redis_url) -> AsyncIterator[tuple[RedisLedger, RedisLedger]]:
    pair = RedisLedger(redis_url), RedisLedger(redis_url)
    yield pair
    for ledger in pair:
        await ledger.close()


@pytest.fixture
async def redis(redis_url) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


async def test_what_two_processes_reserve_follows_one_upon_the_other(ledgers):
    one, other = ledgers
    began = time.monotonic()
    first = await one.reserve(20, interval=INTERVAL)
    second = await other.reserve(20, interval=INTERVAL)
    third = await one.reserve(5, interval=INTERVAL)
    assert (first.n, second.n, third.n) == (20, 20, 5)
    # A process knows the server's clock only as exactly as its calls are quick.
    around = 0.005 + time.monotonic() - began
    assert second.first - first.first == pytest.approx(0.2, abs=around)
    assert third.first - first.first == pytest.approx(0.4, abs=around)
    assert (first.processes, second.processes, third.processes) == (1, 2, 2)


async def test_what_nobody_reserved_in_time_is_not_made_up_for(ledgers):
    one, _ = ledgers
    await one.reserve(1, interval=0.001)
    await asyncio.sleep(0.1)
    now = time.monotonic()
    assert (await one.reserve(1, interval=0.001)).first >= now - 0.005


class Around:
    """Tests moments that a call computes from its "now". That is after this object was made and before the test of the moment."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def is_in(self, seconds: float, moment: float) -> bool:
        """Whether ``moment`` can be ``seconds`` after that "now", give or take 10 ms."""
        return self._began - 0.01 <= moment - seconds <= time.monotonic() + 0.01


async def test_nothing_is_reserved_beyond_the_horizon(ledgers):
    one, other = ledgers
    around = Around()
    everything = await one.reserve(10_000, interval=INTERVAL)
    assert everything.n == int(HORIZON / INTERVAL) + 1
    assert around.is_in(HORIZON, everything.first + (everything.n - 1) * INTERVAL)
    nothing = await other.reserve(10, interval=1.0)
    assert nothing.n == 0 or around.is_in(HORIZON, nothing.first)


async def test_where_the_rate_is_slow_there_is_a_moment_for_every_process(redis_url):
    ledgers = [RedisLedger(redis_url) for _ in range(5)]
    for ledger in ledgers:
        await ledger.reserve(0, interval=1.0)
    grants = [await ledger.reserve(1, interval=1.0) for ledger in ledgers]
    assert [grant.n for grant in grants] == [1] * 5
    assert [round(grant.first - grants[0].first) for grant in grants] == [0, 1, 2, 3, 4]
    for ledger in ledgers:
        await ledger.close()


async def test_all_learn_of_a_silence_and_nothing_is_reserved_within_it(ledgers):
    one, other = ledgers
    around = Around()
    await one.reserve(0, interval=0.0, block=0.5)
    for grant in (await other.reserve(3, interval=INTERVAL), await other.reserve(0, interval=0.0)):
        assert around.is_in(0.5, grant.blocked_until)
        assert grant.first >= grant.blocked_until - 0.001


async def test_a_silence_is_lengthened_never_shortened_and_an_hour_at_most(ledgers):
    one, other = ledgers
    around = Around()
    await one.reserve(0, interval=0.0, block=20)
    assert around.is_in(20, (await other.reserve(0, interval=0.0, block=5)).blocked_until)
    assert around.is_in(LONGEST_BLOCK, (await other.reserve(0, interval=0.0, block=1e6)).blocked_until)


async def test_a_flushed_ledger_waits_until_all_that_it_forgot_has_passed(ledgers, redis):
    one, other = ledgers
    held = await one.reserve(100, interval=INTERVAL)
    await redis.flushall()
    around = Around()
    anew = await other.reserve(100, interval=INTERVAL, careful=1)
    assert around.is_in(HORIZON, anew.first)
    assert anew.first >= held.first + held.n * INTERVAL


async def test_an_empty_ledger_holds_up_nobody_who_begins(ledgers):
    one, _ = ledgers
    around = Around()
    assert around.is_in(0, (await one.reserve(1, interval=INTERVAL)).first)


async def test_who_was_alone_waits_for_the_others_to_come_back(ledgers):
    one, other = ledgers
    await one.reserve(1, interval=INTERVAL)
    await asyncio.sleep(2 * INTERVAL)
    around = Around()
    assert around.is_in(HORIZON, (await other.reserve(5, interval=INTERVAL, careful=2)).first)


async def test_a_server_whose_clock_was_set_back_holds_up_nobody(ledgers, redis):
    one, _ = ledgers
    ahead = int((time.time() + 3600) * 1e6)
    await redis.set(KEY, f"{ahead} {ahead * 2} 17 {ahead}")
    grant = await one.reserve(1, interval=INTERVAL, careful=1)
    assert grant.blocked_until <= time.monotonic() + LONGEST_BLOCK + 0.1
    await redis.set(KEY, f"{ahead} 0")
    assert (await one.reserve(1, interval=INTERVAL)).n == 1


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3", "\x00\xff", "99"])
async def test_whatever_stands_in_the_ledger_it_is_written_anew(ledgers, redis, text):
    one, _ = ledgers
    await redis.set(KEY, text)
    assert (await one.reserve(1, interval=INTERVAL)).n == 1
    assert re.fullmatch(r"\d+ \d+ \d+ \d+", await redis.get(KEY))


async def test_another_kind_of_value_is_an_error_and_not_a_hang(ledgers, redis):
    one, _ = ledgers
    await redis.lpush(KEY, "x")
    with pytest.raises(ResponseError):
        await one.reserve(1, interval=INTERVAL)


async def test_nothing_but_numbers_is_kept_and_not_for_ever(ledgers, redis):
    one, other = ledgers
    await one.reserve(5, interval=INTERVAL, block=1)
    await other.reserve(5, interval=INTERVAL)
    assert await redis.keys() == [KEY]
    assert KEY.startswith("reconnect:pacing:")
    assert re.fullmatch(r"[0-9 ]+", await redis.get(KEY))
    assert 0 < await redis.ttl(KEY) <= 86_400


async def test_a_look_writes_nothing(ledgers, redis):
    one, _ = ledgers
    await one.reserve(0, interval=0.0)
    assert await redis.keys() == []


async def test_a_script_that_the_server_forgot_is_loaded_again(ledgers, redis):
    one, _ = ledgers
    await one.reserve(1, interval=INTERVAL)
    await redis.script_flush()
    assert (await one.reserve(1, interval=INTERVAL)).n == 1


async def test_a_server_that_does_not_answer_is_given_up_within_seconds(monkeypatch):
    monkeypatch.setattr("worker.mx.pacing.ledger._TIMEOUT", _TIMEOUT)  # the worker's own, not that of the other tests

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        ledger = RedisLedger(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        started = time.monotonic()
        with pytest.raises(TimedOut):
            await ledger.reserve(1, interval=INTERVAL)
        await ledger.close()
    assert time.monotonic() - started < 15


@pytest.fixture
async def tls_proxy(redis_url, tmp_path) -> AsyncIterator[tuple[int, Path]]:
    """A TLS proxy in front of Valkey: its port, and its self-signed certificate."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    certificate = builder.add_extension(loopback, critical=False).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, *plain))
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    port = int(redis_url.rpartition(":")[2].partition("/")[0])

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1], tmp_path / "cert.pem"


@pytest.mark.parametrize("word", ["required", "CERT_REQUIRED"])
async def test_rediss_works_with_the_words_of_redis_py_and_of_kombu(tls_proxy, word):
    port, certificate = tls_proxy
    ledger = RedisLedger(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs={word}&ssl_ca_certs={certificate}")
    assert (await ledger.reserve(1, interval=INTERVAL)).n == 1
    await ledger.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(tls_proxy):
    port, _ = tls_proxy
    ledger = RedisLedger(f"rediss://127.0.0.1:{port}/0")
    with pytest.raises(ConnectionLost):
        await ledger.reserve(1, interval=INTERVAL)
    await ledger.close()
