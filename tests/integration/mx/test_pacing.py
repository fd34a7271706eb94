"""The pacing of one process, with a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from worker.mx.answers import Gone, RefusedClient, RetryLater
from worker.mx.pacing import NoPermit, Pacing
from worker.mx.pacing.schedule import LATE

PacingFor = Callable[..., Pacing]
NOBODY = "redis://:hunter2-pw@127.0.0.1:9/0"


@pytest.fixture
async def pacing_for(make_settings, redis_url) -> AsyncIterator[PacingFor]:
    made = []

    def make(**overrides: Any) -> Pacing:
        made.append(Pacing(make_settings(**({"redis_url": redis_url} | overrides))))
        return made[-1]

    yield make
    for pacing in made:
        await pacing.close()


async def one_turn(pacing: Pacing, answer: object = None, **options: Any) -> float:
    """Take a permit; returns when it was given."""
    async with pacing.permit(**options) as permit:
        began = time.monotonic()
        if answer is not None:
            permit.heard(answer)
    return began


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def commands(redis: Redis) -> int:
    return (await redis.info("stats"))["total_commands_processed"]


async def test_without_a_rate_redis_is_asked_once_and_not_for_each_request(pacing_for, redis_url):
    async with Redis.from_url(redis_url) as redis:
        pacing = pacing_for()
        await one_turn(pacing)
        before = await commands(redis)
        started = time.perf_counter()
        for _ in range(5000):
            await one_turn(pacing, Gone())
        took = time.perf_counter() - started
        assert await commands(redis) - before <= 1 + 4 * (took + 1)
        assert await redis.keys() == []


@pytest.mark.alone
async def test_a_turn_that_nothing_limits_costs_microseconds(pacing_for):
    pacing = pacing_for()
    await one_turn(pacing)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(500):
            async with pacing.permit():
                pass
        best = min(best, time.perf_counter() - started)
    assert best / 500 < 5e-6


async def test_with_a_rate_turns_come_evenly(pacing_for):
    pacing = pacing_for(mx_requests_per_second=100)
    began = sorted(await asyncio.gather(*(one_turn(pacing) for _ in range(40))))
    # Never faster than the rate. The upper bound is wide, because a busy machine delays some permits.
    assert 39 / 97 * 0.85 < began[-1] - began[0] < 39 / 97 * 4
    assert max(sum(1 for other in began if 0 <= other - one < 0.1) for one in began) <= 10 + 100 * LATE + 1


async def test_requests_held_up_while_they_connect_are_not_sent_all_at_once(pacing_for):
    pacing = pacing_for(mx_requests_per_second=100)
    sent: list[float] = []

    async def request() -> None:
        async with pacing.permit() as permit:
            await opened.wait()
            await permit.before_sending()
            sent.append(time.monotonic())

    opened = asyncio.Event()
    requests = [asyncio.create_task(request()) for _ in range(30)]
    await until(lambda: pacing._concurrency.in_flight == 30)
    await asyncio.sleep(2 * LATE)  # so that the last of their permits has expired too
    opened.set()
    await asyncio.gather(*requests)
    # Each has got a new permit, and at most three permits may be used at once.
    assert max(sum(1 for other in sent if 0 <= other - one < 0.1) for one in sent) <= 10 + 100 * LATE + 1
    assert pacing._concurrency.in_flight == 0


async def test_a_request_that_connected_too_late_is_not_sent_into_a_silence(pacing_for):
    pacing = pacing_for(mx_requests_per_second=100)
    async with pacing.permit() as permit:
        await asyncio.sleep(2 * LATE)
        pacing.block(60)
        with pytest.raises(NoPermit) as raised:
            await permit.before_sending()
    assert raised.value.after == pytest.approx(60, abs=1)
    assert pacing._concurrency.in_flight == 0


async def test_a_request_with_no_time_left_is_not_sent_and_is_no_timeout_of_mx(pacing_for):
    pacing = pacing_for(mx_requests_per_second=100)
    async with pacing.permit(within=0.5) as permit:
        await asyncio.sleep(0.5 + 2 * LATE)
        with pytest.raises(NoPermit):
            await permit.before_sending()


async def test_many_waiters_are_served_by_few_round_trips(pacing_for, redis_url):
    async with Redis.from_url(redis_url) as redis:
        pacing = pacing_for(mx_requests_per_second=200)
        await one_turn(pacing)
        before = await commands(redis)
        await asyncio.gather(*(one_turn(pacing) for _ in range(100)))
        assert (
            await commands(redis) - before
        ) / 100 <= 0.5  # 24 are reserved at first, then 194 at once; one each would be 1.0


@pytest.mark.parametrize("rate", [None, 100])
async def test_silence_that_another_process_asked_for_holds_the_first_turn(pacing_for, rate):
    other = pacing_for()
    other.block(0.4)
    silent_until = time.monotonic() + other.blocked_for
    await until(lambda: other._source._untold_block < 0)
    assert await one_turn(pacing_for(mx_requests_per_second=rate)) >= silent_until - 0.01


async def test_silence_reaches_processes_that_are_at_work(pacing_for):
    one, other = pacing_for(), pacing_for()
    await asyncio.gather(one_turn(one), one_turn(other))
    one.block(45)  # longer than it takes to find a slow Redis again
    async with asyncio.timeout(40):
        while not other.blocked_for:
            with suppress(NoPermit):  # it may learn of the silence while it waits
                await one_turn(other, within=1.0)
            await asyncio.sleep(0.02)
    assert other.blocked_for == pytest.approx(one.blocked_for, abs=5)
    with pytest.raises(NoPermit) as refusal:
        await one_turn(other, within=1.0)
    assert refusal.value.after == pytest.approx(one.blocked_for, abs=5)


async def test_what_waits_goes_when_the_silence_is_over(pacing_for):
    pacing = pacing_for()
    await one_turn(pacing)
    pacing.block(0.3)
    now = time.monotonic()
    began = await asyncio.gather(*(one_turn(pacing, within=30) for _ in range(5)))
    assert all(now + 0.295 <= moment <= now + 20 for moment in began)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (RetryLater(code="http_429", after=7.0), 7.0),
        (RetryLater(code="http_503", after=7.0), 7.0),
        (RetryLater(code="http_429"), 1.0),
        (RetryLater(code="http_503"), 0.0),
        (RetryLater(code="http_409", after=7.0, upstream=False), 0.0),
        (RetryLater(code="timeout"), 0.0),
        (RefusedClient(code="http_401"), 0.0),
        (Gone(), 0.0),
    ],
)
async def test_which_answers_silence_everybody(pacing_for, answer, seconds):
    pacing = pacing_for()
    await one_turn(pacing, answer)
    assert pacing.blocked_for == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize(
    ("answer", "limit"),
    [
        (RetryLater(code="http_429", after=0.0), 70),
        (RetryLater(code="timeout"), 70),
        (RetryLater(code="connect_timeout"), 70),
        (RetryLater(code="http_500"), 100),
        (RefusedClient(code="http_401"), 100),
        (Gone(), 100),
    ],
)
async def test_which_answers_cost_places(pacing_for, answer, limit):
    pacing = pacing_for(mx_max_connections=100)
    await one_turn(pacing, answer)
    assert pacing.limit == limit


async def test_no_more_are_in_flight_than_there_are_places(pacing_for):
    pacing = pacing_for(mx_max_connections=7)
    in_flight = most = 0

    async def ask() -> None:
        nonlocal in_flight, most
        async with pacing.permit():
            in_flight += 1
            most = max(most, in_flight)
            await asyncio.sleep(0.001)
            in_flight -= 1

    await asyncio.gather(*(ask() for _ in range(100)))
    assert most == 7


async def test_a_waiter_that_gives_up_leaves_its_place_to_others(pacing_for):
    pacing = pacing_for(mx_max_connections=1)
    has_it, hold = asyncio.Event(), asyncio.Event()

    async def worker_id() -> None:
        async with pacing.permit():
            has_it.set()
            await hold.wait()

    held = asyncio.create_task(worker_id())
    await has_it.wait()
    cancelled = [asyncio.create_task(one_turn(pacing)) for _ in range(5)]
    last = asyncio.create_task(one_turn(pacing, within=20))
    with pytest.raises(NoPermit) as refusal:
        await one_turn(pacing, within=0.05)
    assert refusal.value.after == 0
    for task in cancelled[:3]:
        task.cancel()
    hold.set()
    await asyncio.sleep(0)  # the place is given to a waiter that has not run yet
    cancelled[3].cancel()
    await asyncio.gather(held, last, *cancelled, return_exceptions=True)
    assert last.exception() is None
    assert pacing._concurrency.in_flight == 0
    await one_turn(pacing, within=20)


async def test_a_request_that_fails_gives_its_place_back(pacing_for):
    pacing = pacing_for(mx_max_connections=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            async with pacing.permit(within=20):
                raise ValueError("broken")
    assert pacing._concurrency.in_flight == 0


async def test_with_redis_away_work_goes_on_and_no_secret_is_logged(pacing_for):
    pacing = pacing_for(redis_url=NOBODY, mx_requests_per_second=1000)
    with capture_logs() as logs:
        await one_turn(pacing, within=20)
        assert pacing.alone
    assert [entry["event"] for entry in logs] == ["pacing_alone"]
    assert "hunter2" not in str(logs) + repr(pacing)


async def test_what_is_affordable_follows_rate_silence_and_those_who_wait(pacing_for):
    pacing = pacing_for(mx_requests_per_second=10)
    await one_turn(pacing)
    assert pacing.affordable(60) == int(60 * 9.7)  # no other process is at work
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(one_turn(pacing)) for _ in range(50)]
        await asyncio.sleep(0)
        assert pacing.affordable(60) == pytest.approx(60 * 9.7 - 50, abs=2)
        assert pacing.affordable(3) == 0
        for task in waiting:
            task.cancel()
    pacing.block(30)
    assert pacing.affordable(60) == pytest.approx(30 * 9.7, abs=3)
    assert pacing.affordable(29) == 0


async def test_a_slow_rate_still_affords_one(pacing_for):
    assert pacing_for(mx_requests_per_second=0.001).affordable(60) == 1


async def test_without_a_rate_places_and_the_pace_of_answers_say_what_is_affordable(pacing_for):
    assert pacing_for(mx_max_connections=20).affordable(10) == 200  # a request is assumed to take one second


async def test_nobody_looks_while_nothing_is_sent_and_a_look_comes_first_afterwards(pacing_for):
    pacing, other = pacing_for(), pacing_for()
    await one_turn(pacing)
    await until(lambda: pacing._queue._refill_task_wakes_at == float("inf"))
    other.block(0.4)
    silent_until = time.monotonic() + other.blocked_for
    await until(lambda: other._source._untold_block < 0)
    assert not pacing.blocked_for
    assert await one_turn(pacing) >= silent_until - 0.01


async def test_closing_cancels_who_waits(pacing_for):
    pacing = pacing_for()
    pacing.block(60)
    waiter = asyncio.create_task(one_turn(pacing))
    await asyncio.sleep(0)
    await pacing.close()
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_it_closes_whatever_it_was_doing(pacing_for):
    for steps in range(80):  # each interrupts the first exchange with Redis at another point
        pacing = pacing_for()
        waiter = asyncio.create_task(one_turn(pacing))
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await pacing.close()
        await asyncio.wait([waiter])
        assert not pacing._queue._waiters
