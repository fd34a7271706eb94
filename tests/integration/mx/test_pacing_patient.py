"""A sync waits behind all other work: it takes only permits that no other process wants. With a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from worker.mx.pacing import Pacing

PacingFor = Callable[..., Pacing]


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
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_sync_gets_next_to_nothing_while_fetch_uses_the_rate_and_all_of_it_after_that(pacing_for):
    fetch, sync = pacing_for(mx_requests_per_second=50), pacing_for(mx_requests_per_second=50)
    sync.wait_behind_others(patient=True)
    sent: dict[str, list[float]] = {"fetch": [], "sync": []}

    async def child(pacing: Pacing, name: str) -> None:
        while True:
            async with pacing.permit(within=120):
                sent[name].append(time.monotonic())

    syncing = [asyncio.create_task(child(sync, "sync")) for _ in range(40)]
    await until(lambda: len(sent["sync"]) >= 30)
    fetching = [asyncio.create_task(child(fetch, "fetch")) for _ in range(40)]
    await until(lambda: len(sent["fetch"]) >= 50)
    before = len(sent["sync"])
    await until(lambda: len(sent["fetch"]) >= 150)
    meanwhile = len(sent["sync"]) - before
    assert meanwhile <= 20, meanwhile  # of about 120 permits
    for task in fetching:
        task.cancel()
    await asyncio.gather(*fetching, return_exceptions=True)
    after, began = len(sent["sync"]), time.monotonic()
    await until(lambda: len(sent["sync"]) >= after + 60)
    assert 60 / (time.monotonic() - began) > 15  # the rate is 50; a busy machine loses some
    for task in syncing:
        task.cancel()
    await asyncio.gather(*syncing, return_exceptions=True)
    moments = sorted(sent["fetch"] + sent["sync"])
    assert max(sum(start <= moment < start + 1 for moment in moments) for start in moments) <= 52
