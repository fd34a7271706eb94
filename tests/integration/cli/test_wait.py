"""`sweep --wait` waits until nothing is due any more."""

import asyncio
from typing import Any

import pytest

from worker.cli import work
from worker.stages.sweep import sweep


async def test_what_nobody_was_woken_for_is_woken_for_while_somebody_waits(
    bench_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This happens if a row falls due right after the sweep has counted, or if the task was lost.
    monkeypatch.setattr(work, "WAKE_AGAIN", 0.05)
    bench = await bench_for(notify_after=0)
    await bench.member("a", connection_status="DENIED")
    await sweep(bench.runtime)
    bench.woken.clear()
    waiting = asyncio.create_task(work.follow(bench.runtime, bar=False))
    async with asyncio.timeout(30):
        while ("fetch", 1) not in bench.woken:
            assert not waiting.done()
            await asyncio.sleep(0.01)
        await bench.sql("UPDATE members SET connection_status = 'CONNECTED'")
        await sweep(bench.runtime)
        await waiting
