import pytest

from worker.mx.pacing.concurrency import CUT, FLOOR, GROWTH, ConcurrencyLimit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_round(concurrency: ConcurrencyLimit, n: int) -> None:
    """``n`` requests at once that all succeed."""
    concurrency.in_flight = n
    for _ in range(n):
        concurrency.went_well()
    concurrency.in_flight = 0


def test_it_begins_with_all_places(clock):
    concurrency = ConcurrencyLimit(200, clock=clock)
    assert concurrency.free == 200
    concurrency.in_flight += 3
    assert concurrency.free == 197


def test_a_pushback_cuts_the_places(clock):
    concurrency = ConcurrencyLimit(200, clock=clock)
    concurrency.pushed_back(began=99.0)
    assert concurrency.limit == 200 * CUT == 140


def test_what_was_under_way_at_a_cut_cuts_no_further(clock):
    concurrency = ConcurrencyLimit(200, clock=clock)
    for began in (99.0, 99.5, 99.9):
        clock.now += 0.1
        concurrency.pushed_back(began)
    assert concurrency.limit == 140
    clock.now += 30
    concurrency.pushed_back(began=100.0)  # it began before the cut and timed out 30 s later
    assert concurrency.limit == 140
    concurrency.pushed_back(began=100.2)
    assert concurrency.limit == pytest.approx(98)


def test_there_are_never_fewer_than_the_floor(clock):
    concurrency = ConcurrencyLimit(200, clock=clock)
    for _ in range(50):
        concurrency.pushed_back(began=clock.now)
        clock.now += 1
    assert concurrency.limit == FLOOR


def test_one_place_stays_one(clock):
    concurrency = ConcurrencyLimit(1, clock=clock)
    concurrency.pushed_back(began=100.0)
    assert int(concurrency.limit) == 1


def test_a_round_that_goes_well_adds_a_few_places(clock):
    concurrency = ConcurrencyLimit(200, clock=clock)
    concurrency.pushed_back(began=100.0)
    a_round(concurrency, 140)
    assert 140 + GROWTH * 0.9 < concurrency.limit <= 140 + GROWTH
    for _ in range(30):
        a_round(concurrency, int(concurrency.limit))
    assert concurrency.limit == 200


def test_answers_to_a_few_requests_say_nothing_about_many(clock):
    concurrency = ConcurrencyLimit(200, clock=clock)
    concurrency.pushed_back(began=100.0)
    for _ in range(30):
        a_round(concurrency, 60)
    assert concurrency.limit == 140


def test_more_are_in_flight_than_places_after_a_cut_and_none_begins(clock):
    concurrency = ConcurrencyLimit(10, clock=clock)
    concurrency.in_flight = 10
    concurrency.pushed_back(began=100.0)
    assert concurrency.free == -3
    for _ in range(4):
        concurrency.leave(began=99.0)
    assert concurrency.free == 1


def test_turnover_follows_what_requests_take(clock):
    concurrency = ConcurrencyLimit(100, clock=clock)
    assert concurrency.turnover(10) == 1000  # assumes one second a request until a duration is known
    for _ in range(200):
        clock.now += 0.2
        concurrency.leave(began=clock.now - 0.2)
    assert concurrency.turnover(10) == pytest.approx(5000, rel=0.01)


def test_flow_is_what_is_in_flight_over_what_it_takes(clock):
    concurrency = ConcurrencyLimit(100, clock=clock)
    for _ in range(200):
        clock.now += 0.2
        concurrency.leave(began=clock.now - 0.2)
    concurrency.in_flight = 10
    assert concurrency.flow == pytest.approx(50, rel=0.01)
