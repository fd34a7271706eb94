import pytest

from worker.mx.pacing.places import CUT, FLOOR, GROWTH, Places


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_round(places: Places, n: int) -> None:
    """``n`` requests side by side that all go well."""
    places.in_flight = n
    for _ in range(n):
        places.went_well()
    places.in_flight = 0


def test_it_begins_with_all_places(clock):
    places = Places(200, clock=clock)
    assert places.free == 200
    places.in_flight += 3
    assert places.free == 197


def test_a_pushback_cuts_the_places(clock):
    places = Places(200, clock=clock)
    places.pushed_back(began=99.0)
    assert places.limit == 200 * CUT == 140


def test_what_was_under_way_at_a_cut_cuts_no_further(clock):
    places = Places(200, clock=clock)
    for began in (99.0, 99.5, 99.9):
        clock.now += 0.1
        places.pushed_back(began)
    assert places.limit == 140
    clock.now += 30
    places.pushed_back(began=100.0)  # timed out thirty seconds later
    assert places.limit == 140
    places.pushed_back(began=100.2)
    assert places.limit == pytest.approx(98)


def test_there_are_never_fewer_than_the_floor(clock):
    places = Places(200, clock=clock)
    for _ in range(50):
        places.pushed_back(began=clock.now)
        clock.now += 1
    assert places.limit == FLOOR


def test_one_place_stays_one(clock):
    places = Places(1, clock=clock)
    places.pushed_back(began=100.0)
    assert int(places.limit) == 1


def test_a_round_that_goes_well_adds_a_few_places(clock):
    places = Places(200, clock=clock)
    places.pushed_back(began=100.0)
    a_round(places, 140)
    assert 140 + GROWTH * 0.9 < places.limit <= 140 + GROWTH
    for _ in range(30):
        a_round(places, int(places.limit))
    assert places.limit == 200


def test_answers_to_a_few_requests_say_nothing_about_many(clock):
    places = Places(200, clock=clock)
    places.pushed_back(began=100.0)
    for _ in range(30):
        a_round(places, 60)
    assert places.limit == 140


def test_more_are_in_flight_than_places_after_a_cut_and_none_begins(clock):
    places = Places(10, clock=clock)
    places.in_flight = 10
    places.pushed_back(began=100.0)
    assert places.free == -3
    for _ in range(4):
        places.leave(began=99.0)
    assert places.free == 1


def test_turnover_follows_what_requests_take(clock):
    places = Places(100, clock=clock)
    assert places.turnover(10) == 1000  # a second each, as long as nothing is known
    for _ in range(200):
        clock.now += 0.2
        places.leave(began=clock.now - 0.2)
    assert places.turnover(10) == pytest.approx(5000, rel=0.01)


def test_flow_is_what_is_in_flight_over_what_it_takes(clock):
    places = Places(100, clock=clock)
    for _ in range(200):
        clock.now += 0.2
        places.leave(began=clock.now - 0.2)
    places.in_flight = 10
    assert places.flow == pytest.approx(50, rel=0.01)
