import random

import pytest

from worker.mx.pacing.ledger import CarriedTime
from worker.mx.pacing.schedule import LATE, PACE, Schedule


def test_a_moment_is_used_once_and_not_before_it_comes():
    schedule = Schedule()
    schedule.add(10.0, 0.5, 2)
    assert not schedule.take(9.999)
    assert schedule.take(10.0)
    assert not schedule.take(10.0)
    assert schedule.next == 10.5
    assert schedule.take(10.501)
    assert schedule.next is None
    assert schedule.lost == 0


def test_a_moment_that_is_missed_by_too_much_is_lost():
    schedule = Schedule()
    schedule.add(10.0, 0.01, 5)  # the last one is at 10.04
    assert schedule.count(10.0) == 5
    assert schedule.count(10.025 + LATE) == 2
    assert schedule.lost == 3
    assert schedule.take(10.025 + LATE)
    assert not schedule.take(10.041 + LATE)


def test_more_moments_come_after_those_that_are_there():
    schedule = Schedule()
    schedule.add(10.0, 0.5, 2)
    schedule.add(10.2, 0.5, 1)
    assert schedule.last == 11.0


def test_moments_are_forgotten_on_either_side():
    schedule = Schedule()
    schedule.add(10.0, 1.0, 5)
    schedule.forget_before(12.0)
    schedule.forget_from(14.0)
    assert (schedule.next, schedule.last) == (12.0, 13.0)
    schedule.forget_before(99.0)
    assert schedule.last == float("-inf")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [7, 200, 1000])
def test_what_leaves_in_any_second_is_within_the_rate_however_a_process_stumbles(rate, seed):
    rng = random.Random(seed)
    interval = 1 / (rate * PACE)
    schedule, left, now = Schedule(), [], 0.0
    schedule.add(0.0, interval, rate * 6)
    while now < 5.0:
        while schedule.take(now):
            left.append(now)
        now += rng.choice((interval / 3, interval, 0.02, 0.02, 0.1))
    assert max(sum(start <= moment < start + 1 for moment in left) for start in left) <= rate


def test_the_other_clock_is_read_as_well_as_the_quickest_answer_allows():
    carried = CarriedTime()
    ahead = 1_000_000.0
    carried.learn(100.010 + ahead, asked=100.0, answered=100.060)  # 50 ms on the way back
    assert carried.here(101.0 + ahead) == pytest.approx(101.05)
    carried.learn(100.2001 + ahead, asked=100.2, answered=100.2002)
    assert carried.here(101.0 + ahead) == pytest.approx(101.0001)
    carried.learn(100.31 + ahead, asked=100.3, answered=100.4)  # 90 ms: too slow to be used
    assert carried.here(101.0 + ahead) == pytest.approx(101.0001, abs=0.0004)


def test_a_moment_is_never_carried_over_too_early():
    rng = random.Random(1)
    carried, ahead, now = CarriedTime(), -5_000.0, 50.0
    for _ in range(500):
        there, back = rng.expovariate(200), rng.expovariate(200)
        carried.learn(now + there + ahead, asked=now, answered=now + there + back)
        assert carried.here(60.0 + ahead) >= 60.0
        now += rng.uniform(0.1, 2.0)


def test_a_clock_that_was_set_is_believed_anew():
    carried = CarriedTime()
    carried.learn(1000.0, asked=10.0, answered=10.001)
    carried.learn(500.0, asked=11.0, answered=11.001)
    assert carried.here(501.0) == pytest.approx(12.001)
    carried.learn(9000.0, asked=12.0, answered=12.001)
    assert carried.here(9001.0) == pytest.approx(13.001)
