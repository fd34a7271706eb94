"""The request of a click goes before all others, and the others get fewer permits for it. With a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from worker.mx.answers import RetryLater
from worker.mx.pacing import NoPermit, Pacing
from worker.mx.pacing.ledger import RedisLedger

PacingFor = Callable[..., Pacing]
INTERVAL = 0.1


@pytest.fixture
async def pacing_for(make_settings, redis_url) -> AsyncIterator[PacingFor]:
    made = []

    def make(**overrides: Any) -> Pacing:
        made.append(Pacing(make_settings(**({"redis_url": redis_url} | overrides))))
        return made[-1]

    yield make
    for pacing in made:
        await pacing.close()


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest.fixture
async def ledgers(redis_url) -> AsyncIterator[tuple[RedisLedger, RedisLedger]]:
    pair = RedisLedger(redis_url), RedisLedger(redis_url)
    yield pair
    for ledger in pair:
        await ledger.close()


async def test_an_urgent_moment_is_now_and_whoever_reserves_next_pays_for_it(ledgers):
    batch, web = ledgers
    began = time.monotonic()
    full = await batch.reserve(1000, interval=INTERVAL)
    reserved = time.monotonic()
    urgent = await web.reserve(1, interval=INTERVAL, urgent=True)
    answered = time.monotonic()
    assert urgent.n == 1
    assert urgent.first < answered + 0.05
    asked = time.monotonic()
    following = await batch.reserve(1, interval=INTERVAL, horizon=10)
    # A process knows the server's clock only as exactly as its calls are quick.
    around = 0.02 + reserved - began + time.monotonic() - asked
    assert following.first == pytest.approx(full.first + (full.n + 1) * INTERVAL, abs=around)


async def test_urgent_moments_alone_keep_to_the_rate_and_end_at_the_horizon(ledgers):
    began = time.monotonic()
    moments = [await ledgers[n % 2].reserve(1, interval=INTERVAL, urgent=True) for n in range(20)]
    took = time.monotonic() - began
    granted = [grant.first for grant in moments if grant.n]
    assert 13 <= len(granted) <= 15 + took / INTERVAL  # 1.25 s, and two processes that read the clock differently
    assert granted[-1] - granted[0] == pytest.approx((len(granted) - 1) * INTERVAL, abs=0.05 + took)


async def test_a_click_overtakes_a_queue_that_uses_the_rate_up_and_the_rate_holds_over_seconds(pacing_for):
    batch, web = pacing_for(mx_requests_per_second=50), pacing_for(mx_requests_per_second=50)
    sent: list[float] = []

    async def child() -> None:
        while True:
            async with batch.permit(within=60):
                sent.append(time.monotonic())

    children = [asyncio.create_task(child()) for _ in range(40)]
    await until(lambda: len(sent) >= 25)
    began, waits, clicked = time.monotonic(), [], []
    for _ in range(35):  # ten a second
        asked = time.monotonic()
        async with web.permit(within=5, urgent=True):
            clicked.append(time.monotonic())
            waits.append(clicked[-1] - asked)
        await asyncio.sleep(max(0.0, asked + 0.1 - time.monotonic()))
    ended = time.monotonic()
    for task in children:
        task.cancel()
    await asyncio.gather(*children, return_exceptions=True)
    assert sorted(waits)[len(waits) // 2] < 0.4  # behind the 40 that wait it would be 0.8 s
    # The batch keeps the permits that it reserved before the first click, for at most 1.25 s. After that the permits of clicks are missing
    # from its own.
    settled = began + 1.3
    together = [moment for moment in sent + clicked if settled <= moment < ended]
    assert len(together) <= 50 * (ended - settled) + 4
    assert len(together) >= 0.2 * 50 * (ended - settled)


async def test_in_one_process_a_click_goes_before_the_waiters_when_a_slot_falls_free(pacing_for):
    pacing = pacing_for(mx_max_connections=1)
    order: list[str] = []

    async def ask(name: str, *, urgent: bool) -> None:
        async with pacing.permit(within=10, urgent=urgent):
            order.append(name)

    async with pacing.permit():
        waiting = [asyncio.create_task(ask(f"batch {n}", urgent=False)) for n in range(3)]
        await asyncio.sleep(0)
        click = asyncio.create_task(ask("click", urgent=True))
        await until(lambda: bool(pacing._queue._urgent))
    await asyncio.gather(*waiting, click)
    assert order[0] == "click"
    assert pacing._concurrency.in_flight == 0


async def test_a_click_that_gives_up_waiting_for_a_slot_leaves_nothing_behind(pacing_for):
    pacing = pacing_for(mx_max_connections=1)
    async with pacing.permit():
        with pytest.raises(NoPermit):
            async with pacing.permit(within=0.05, urgent=True):
                pass
    assert not pacing._queue._urgent
    async with pacing.permit(within=20):
        assert pacing._concurrency.in_flight == 1


@pytest.mark.parametrize("rate", [None, 50])
async def test_during_a_silence_a_click_is_refused_at_once_with_its_length_in_every_process(pacing_for, rate):
    first, second = pacing_for(mx_requests_per_second=rate), pacing_for(mx_requests_per_second=rate)
    async with first.permit(urgent=True) as permit:
        permit.heard(RetryLater(code="http_429", after=30))
    await until(lambda: first._source._untold_block < 0)  # it is stored in Redis
    for pacing in (first, second):
        asked = time.monotonic()
        with pytest.raises(NoPermit) as refused:
            async with pacing.permit(within=60, urgent=True):
                pass
        assert time.monotonic() - asked < 15
        assert refused.value.after == pytest.approx(30, abs=20)


async def test_without_redis_a_click_takes_a_moment_of_its_process_own_share(pacing_for):
    pacing = pacing_for(mx_requests_per_second=80, redis_url="redis://127.0.0.1:9/0")
    asked = time.monotonic()
    for _ in range(5):
        async with pacing.permit(within=5, urgent=True):
            pass
    took = time.monotonic() - asked
    assert pacing.alone
    assert 4 / 9.7 <= took < 4 / 9.7 + 5  # an eighth of the rate
