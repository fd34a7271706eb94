"""A process that cannot reach Redis, on a simulated clock."""

from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from worker.mx.pacing.ledger import HORIZON, Grant
from worker.mx.pacing.schedule import LATE, PACE
from worker.mx.pacing.source import STALE, TRY_EVERY, UNKNOWN_PROCESSES, PermitSource

PASSWORD = "hunter2-pw"


class Ledger:
    """Unreachable until ``grant`` is set."""

    def __init__(self) -> None:
        self.grant: Grant | None = None
        self.asked: list[tuple[int, float, int]] = []

    async def reserve(
        self,
        n: int,
        *,
        interval: float,
        horizon: float,
        block: float = 0.0,
        careful: int = 0,
        reach: float | None = None,
    ) -> Grant:
        self.asked.append((n, block, careful))
        if self.grant is None:
            raise ConnectionError(f"redis://:{PASSWORD}@redis.example refused")
        return self.grant

    async def close(self) -> None:
        """Nothing to close."""


class Bench:
    def __init__(self, rate: float | None) -> None:
        self.now = 100.0
        self.ledger = Ledger()
        self.source = PermitSource(self.ledger, rate=rate, clock=lambda: self.now)

    async def live(self, seconds: float, *, step: float = 0.005, usable: int = 50) -> list[float]:
        """Refill permits when that is due and send whenever a permit is free; returns the moments of the requests."""
        left, until = [], self.now + seconds
        while self.now < until:
            due = self.source.refill_at(self.now, waiting=True, usable=usable, active=True)
            if due <= self.now:
                await self.source.refill(usable)
            while len(left) < 10_000 and self.source.take(self.now):
                left.append(self.now)
            self.now += step
        return left


def granted(first: float, *, n: int = 0, blocked_until: float = 0.0, processes: int = 4) -> Grant:
    return Grant(first=first, n=n, blocked_until=blocked_until, processes=processes)


async def test_a_process_that_never_met_redis_sends_a_cautious_share():
    bench = Bench(rate=80)
    left = await bench.live(HORIZON + 10)
    assert left[0] >= 100 + HORIZON  # other processes may still hold permits until then
    assert len(left) == pytest.approx(10 * 80 * PACE / UNKNOWN_PROCESSES, rel=0.05)


async def test_a_process_whose_redis_goes_away_sends_its_share_of_those_seen_last():
    bench = Bench(rate=80)
    bench.ledger.grant = granted(100.0, n=1, processes=4)
    await bench.source.refill(1)
    assert bench.source.take(100.0)
    bench.ledger.grant = None
    await bench.live(HORIZON + 2)
    left = await bench.live(10)
    assert len(left) == pytest.approx(10 * 80 * PACE / 4, rel=0.05)
    assert min(later - sooner for sooner, later in pairwise(left)) > 4 / 80 - LATE


async def test_it_says_so_once_and_says_when_it_is_over():
    bench = Bench(rate=80)
    with capture_logs() as logs:
        await bench.live(3)
        bench.ledger.grant = granted(bench.now + HORIZON)
        await bench.live(1)
    assert [entry["event"] for entry in logs] == ["pacing_alone", "pacing_shared"]
    assert logs[0]["requests_per_second"] == 9.7
    assert logs[1]["processes"] == 4
    assert PASSWORD not in str(logs)


async def test_redis_is_tried_a_few_times_a_second_while_it_is_away():
    bench = Bench(rate=80)
    await bench.live(10)
    assert len(bench.ledger.asked) == pytest.approx(10 / TRY_EVERY, abs=2)
    assert bench.ledger.asked[0][2] == 0
    assert {careful for _, _, careful in bench.ledger.asked[1:]} == {2}


async def test_its_own_moments_end_where_the_shared_ones_begin():
    bench = Bench(rate=80)
    await bench.live(HORIZON + 2)
    bench.ledger.grant = granted(bench.now + 0.3, processes=2)
    left = await bench.live(1)
    assert left
    assert max(left) < bench.ledger.grant.first


async def test_without_a_rate_nothing_is_slower_for_redis_being_away():
    bench = Bench(rate=None)
    assert not bench.source.take(bench.now)  # no permit before the first try to reach Redis
    await bench.source.refill(0)
    assert bench.source.alone
    assert bench.source.take(bench.now)


async def test_silence_is_kept_alone_and_told_when_redis_is_back():
    bench = Bench(rate=None)
    await bench.source.refill(0)
    bench.source.block(10)
    assert await bench.live(9) == []
    bench.ledger.grant = granted(0.0)
    await bench.live(TRY_EVERY + 0.1)
    told = [block for _, block, _ in bench.ledger.asked if block]
    assert told[-1] == pytest.approx(1.0, abs=TRY_EVERY + 0.1)
    assert len(await bench.live(1)) > 0


async def test_a_silence_that_redis_forgot_is_told_again():
    bench = Bench(rate=None)
    bench.ledger.grant = granted(0.0, blocked_until=130.0)
    await bench.source.refill(0)
    bench.ledger.grant = granted(0.0, blocked_until=0.0)
    await bench.live(3)
    assert bench.source.blocked_until == 130.0
    assert max(block for _, block, _ in bench.ledger.asked) == pytest.approx(30, abs=3)


async def test_silence_is_an_hour_at_most():
    bench = Bench(rate=None)
    bench.source.block(1e9)
    assert bench.source.blocked_until == 100 + 3600


async def test_a_shorter_silence_does_not_shorten_a_longer_one():
    bench = Bench(rate=None)
    bench.source.block(30)
    bench.source.block(5)
    assert bench.source.blocked_until == 130


async def test_moments_within_a_silence_are_lost():
    bench = Bench(rate=100)
    bench.ledger.grant = granted(100.0, n=50)
    await bench.source.refill(50)
    bench.source.block(0.3)
    bench.now = 100.31
    assert bench.source.schedule.next >= 100.3


async def test_an_old_look_counts_for_nothing():
    bench = Bench(rate=None)
    bench.ledger.grant = granted(0.0)
    await bench.source.refill(0)
    assert bench.source.take(bench.now)
    bench.now += STALE
    assert not bench.source.take(bench.now)
    assert bench.source.refill_at(bench.now, waiting=True, usable=0, active=False) <= bench.now


async def test_nobody_looks_when_nothing_is_sent():
    bench = Bench(rate=80)
    bench.ledger.grant = granted(100.0)
    await bench.source.refill(0)
    assert bench.source.refill_at(bench.now, waiting=False, usable=0, active=False) == float("inf")
