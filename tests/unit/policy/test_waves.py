"""The notices of a wave, members that expire on one day, are spread evenly over the days before it. Each member has its own moment."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from worker.policy.consents import is_known, reckoned
from worker.policy.notices import next_notice
from worker.policy.waves import WAVE, first_moment, is_wave, place_of

DAY = timedelta(days=1)
EXPIRY = datetime(2026, 11, 30, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def places():
    return [place_of(f"MBR-{number}") for number in range(100_000)]


def per_day(moments):
    return Counter((EXPIRY - moment) // DAY + 1 for moment in moments)


def test_a_hundred_thousand_in_a_day_are_spread_evenly_from_the_first_notice_day_to_the_next(places):
    found = per_day(first_moment(EXPIRY, (14, 3), now=EXPIRY - 14 * DAY, place=place) for place in places)
    assert sorted(found) == list(range(6, 15))
    full_days = [found[day] for day in range(7, 15)]
    assert max(full_days) < 1.05 * min(full_days)
    assert max(full_days) < 12_000


@pytest.mark.parametrize("late", [0, 5, 10, 12, 13])
def test_a_wave_that_is_found_late_is_spread_over_what_is_left(late, places):
    now = EXPIRY - (14 - late) * DAY
    moments = [first_moment(EXPIRY, (14, 3), now=now, place=place) for place in places[:10_000]]
    assert now <= min(moments)
    until = EXPIRY - 3 * DAY if late < 11 else EXPIRY
    assert max(moments) < until
    halves = sum(moment < now + 0.4 * (until - now) for moment in moments)
    assert 4_500 < halves < 5_500


def test_the_next_notices_are_spread_too_and_every_one_comes_before_what_follows(places):
    places = places[:10_000]
    firsts = [first_moment(EXPIRY, (14, 3), now=EXPIRY - 14 * DAY, place=place) for place in places]
    seconds = [
        next_notice(EXPIRY, (14, 3), told_at=told, place=place) for told, place in zip(firsts, places, strict=True)
    ]
    assert sorted(per_day(seconds)) == [1, 2, 3]
    assert max(per_day(seconds).values()) < 4_300
    assert all(first + 2 * DAY < second < EXPIRY for first, second in zip(firsts, seconds, strict=True))
    assert {
        next_notice(EXPIRY, (14, 3), told_at=told, place=place) for told, place in zip(seconds, places, strict=True)
    } == {None}


def test_a_member_has_the_same_place_whenever_it_is_asked_for_and_few_members_are_no_wave():
    assert place_of("MBR-1") == place_of("MBR-1") != place_of("MBR-2")
    assert not is_wave(WAVE)
    assert is_wave(WAVE + 1)


def test_without_a_wave_the_days_are_kept():
    assert next_notice(EXPIRY, (14, 3), told_at=EXPIRY - 14 * DAY) == EXPIRY - 3 * DAY


def test_a_date_is_reckoned_from_the_beginning_of_the_consent_and_never_into_the_past():
    now = datetime(2026, 6, 1, tzinfo=UTC)
    assert reckoned(now - 10 * DAY, 90, now=now) == now + 80 * DAY
    assert reckoned(now - 200 * DAY, 90, now=now) == now + 90 * DAY
    assert [days for days in (None, -1, 0, 1, 3650, 3651) if is_known(days)] == [1, 3650]
