"""No user gets a message in quiet hours or above a cap, and every user gets it in the end."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.policy.cadence import PATIENCE_AFTER_LAST, CadencePosition, earliest, is_quiet, next_reminder
from worker.settings.values import Cap, QuietHours, parse_caps, parse_quiet_hours

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
NIGHT = QuietHours(time(21), time(8))
UTC_ZONE = ZoneInfo("UTC")
MADRID, ST_JOHNS, LORD_HOWE = ZoneInfo("Europe/Madrid"), ZoneInfo("America/St_Johns"), ZoneInfo("Australia/Lord_Howe")

#: Offsets from UTC of whole, half and quarter hours; summer time of an hour and of half an hour; changes at 1, 2 and 3 o'clock and at
#: midnight. Africa/Casablanca has summer time all year except in Ramadan. Pacific/Apia once skipped a whole day.
ZONES = (
    "UTC", "Europe/Madrid", "Europe/London", "America/New_York", "America/St_Johns", "America/Santiago", "America/Havana",
    "Africa/Cairo", "Africa/Casablanca", "Asia/Beirut", "Asia/Kathmandu", "Asia/Kolkata", "Australia/Lord_Howe",
    "Australia/Adelaide", "Pacific/Apia", "Pacific/Chatham", "Pacific/Kiritimati", "Etc/GMT+12",
)  # fmt: skip

#: Moments near which the clocks of one of these zones change.
CHANGES = tuple(
    datetime.fromisoformat(text).replace(tzinfo=UTC)
    for text in (
        "2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T05:30", "2026-11-01T04:30", "2026-04-04T15:00",
        "2026-10-03T15:30", "2026-04-05T04:00", "2026-09-06T04:00", "2026-04-23T22:00", "2026-10-29T21:00",
        "2026-02-15T02:00", "2026-03-22T02:00", "2011-12-30T10:00",
    )
)  # fmt: skip

zones = st.sampled_from(ZONES).map(ZoneInfo)
times_of_day = st.builds(time, st.integers(0, 23), st.integers(0, 59))
quiet_hours = (
    st.tuples(times_of_day, times_of_day).filter(lambda pair: pair[0] != pair[1]).map(lambda p: QuietHours(*p))
)
seconds = st.integers(-90_000, 90_000).map(lambda s: timedelta(seconds=s))
moments = st.builds(
    lambda day, offset: datetime(2026, 1, 1, tzinfo=UTC) + day * DAY + offset, st.integers(0, 800), seconds
) | st.builds(lambda change, offset: change + offset, st.sampled_from(CHANGES), seconds)
many_caps = st.lists(
    st.builds(Cap, st.integers(1, 4), st.sampled_from([1, 6, 24, 100, 168]).map(lambda h: timedelta(hours=h))),
    max_size=3,
)
ages = st.lists(st.integers(0, 14 * 86_400).map(lambda s: timedelta(seconds=s)), max_size=8)


def reads_quiet(moment: datetime, zone: ZoneInfo, quiet: QuietHours) -> bool:
    """Whether a moment is in quiet hours: the same rule again, in minutes of the day."""
    clock = moment.astimezone(zone).time()
    minutes = clock.hour * 60 + clock.minute
    start, end = (t.hour * 60 + t.minute for t in (quiet.start, quiet.end))
    return (minutes - start) % 1440 < (end - start) % 1440


def is_capped(moment: datetime, caps: Sequence[Cap], sent: Sequence[datetime]) -> bool:
    """Whether one more message at this moment would exceed a cap."""
    return any(sum(moment - at < cap.within for at in sent) >= cap.count for cap in caps)


@settings(deadline=None, max_examples=300)
@given(now=moments, zone=zones, quiet=st.none() | quiet_hours, caps=many_caps, ages=ages)
def test_the_moment_is_allowed_and_not_past(
    now: datetime, zone: ZoneInfo, quiet: QuietHours | None, caps: list[Cap], ages: list[timedelta]
) -> None:
    sent = [now - age for age in ages]
    moment = earliest(now, zones=(zone,), quiet=quiet, caps=caps, sent=sent)
    assert moment >= now
    assert moment.utcoffset() == timedelta(0)
    assert quiet is None or not reads_quiet(moment, zone, quiet)
    assert not is_capped(moment, caps, sent)


@settings(deadline=None, max_examples=150)
@given(now=moments, zone=zones, quiet=quiet_hours, caps=many_caps, ages=ages, share=st.floats(0, 1))
# The quiet hours end at a local time that the clocks skip, or they leave a gap of one minute that comes twice or is skipped.
@example(now=CHANGES[0] - MINUTE, zone=MADRID, quiet=QuietHours(time(21), time(2, 30)), caps=[], ages=[], share=0.5)
@example(
    now=CHANGES[1] + 10 * MINUTE, zone=MADRID, quiet=QuietHours(time(2, 31), time(2, 30)), caps=[], ages=[], share=0.5
)
@example(
    now=CHANGES[12] - timedelta(hours=1),
    zone=ZoneInfo("Pacific/Apia"),
    quiet=QuietHours(time(21), time(20, 59)),
    caps=[],
    ages=[],
    share=0.5,
)
def test_no_earlier_moment_is_allowed(
    *, now: datetime, zone: ZoneInfo, quiet: QuietHours, caps: list[Cap], ages: list[timedelta], share: float
) -> None:
    sent = [now - age for age in ages]
    moment = earliest(now, zones=(zone,), quiet=quiet, caps=caps, sent=sent)
    for earlier in {now, now + (moment - now) * share, moment - timedelta(microseconds=1)}:
        if now <= earlier < moment:
            assert reads_quiet(earlier, zone, quiet) or is_capped(earlier, caps, sent)
            # Asking again in between gives the same moment, so no message is deferred for ever.
            assert earliest(earlier, zones=(zone,), quiet=quiet, caps=caps, sent=sent) == moment
    assert earliest(moment, zones=(zone,), quiet=quiet, caps=caps, sent=sent) == moment


@settings(deadline=None, max_examples=150)
@given(now=moments, later=st.integers(0, 3 * 86_400), zone=zones, quiet=quiet_hours, caps=many_caps, ages=ages)
def test_who_asks_later_is_never_told_sooner(
    *, now: datetime, later: int, zone: ZoneInfo, quiet: QuietHours, caps: list[Cap], ages: list[timedelta]
) -> None:
    sent = [now - age for age in ages]
    first = earliest(now, zones=(zone,), quiet=quiet, caps=caps, sent=sent)
    second = earliest(now + timedelta(seconds=later), zones=(zone,), quiet=quiet, caps=caps, sent=sent)
    assert first <= second


@settings(deadline=None, max_examples=100)
@given(now=moments, zone=zones, quiet=quiet_hours, caps=many_caps, ages=ages)
def test_nobody_is_starved(
    now: datetime, zone: ZoneInfo, quiet: QuietHours, caps: list[Cap], ages: list[timedelta]
) -> None:
    longest = max((cap.within for cap in caps), default=timedelta(0))
    moment = earliest(now, zones=(zone,), quiet=quiet, caps=caps, sent=[now - age for age in ages])
    # A day for the quiet hours, and one more if the clocks skip the only gap.
    assert moment <= now + longest + 2 * DAY


@settings(deadline=None, max_examples=50)
@given(now=moments, zone=zones, caps=many_caps.filter(bool))
def test_writing_whenever_it_is_allowed_never_exceeds_a_cap(now: datetime, zone: ZoneInfo, caps: list[Cap]) -> None:
    sent: list[datetime] = []
    for _ in range(12):
        now = earliest(now, zones=(zone,), quiet=NIGHT, caps=caps, sent=sent)
        sent.append(now)
    for cap in caps:
        for start in sent:
            assert sum(start <= at < start + cap.within for at in sent) <= cap.count


@pytest.mark.parametrize(
    ("zone", "quiet", "now", "expected"),
    [
        # The wrap at midnight: evening, midnight, morning, the last moment, the end itself.
        ("UTC", "21:00-08:00", "2026-11-23T21:00:00", "2026-11-24T08:00"),
        ("UTC", "21:00-08:00", "2026-11-24T00:00:00", "2026-11-24T08:00"),
        ("UTC", "21:00-08:00", "2026-11-24T07:59:59", "2026-11-24T08:00"),
        ("UTC", "21:00-08:00", "2026-11-24T08:00:00", "2026-11-24T08:00"),
        ("UTC", "21:00-08:00", "2026-11-24T20:59:59", "2026-11-24T20:59:59"),
        ("UTC", "21:00-08:00", "2026-12-31T23:00:00", "2027-01-01T08:00"),
        # Quiet hours that do not wrap, and some that end or begin at midnight.
        ("UTC", "09:00-17:00", "2026-11-24T12:00:00", "2026-11-24T17:00"),
        ("UTC", "09:00-17:00", "2026-11-24T08:59:59", "2026-11-24T08:59:59"),
        ("UTC", "18:00-00:00", "2026-11-24T18:00:00", "2026-11-25T00:00"),
        ("UTC", "00:00-07:00", "2026-11-24T00:00:00", "2026-11-24T07:00"),
        # Spring: the night is an hour shorter (half an hour on Lord Howe Island).
        ("Europe/Madrid", "21:00-08:00", "2026-03-28T22:00:00", "2026-03-29T06:00"),
        ("America/St_Johns", "21:00-08:00", "2026-03-08T02:00:00", "2026-03-08T10:30"),
        ("Australia/Lord_Howe", "21:00-08:00", "2026-10-03T12:00:00", "2026-10-03T21:00"),
        # Autumn: the night is longer.
        ("Europe/Madrid", "21:00-08:00", "2026-10-24T22:00:00", "2026-10-25T07:00"),
        ("America/St_Johns", "21:00-08:00", "2026-11-01T01:00:00", "2026-11-01T11:30"),
        ("Australia/Lord_Howe", "21:00-08:00", "2026-04-04T12:00:00", "2026-04-04T21:30"),
        # If 02:30 does not exist, quiet hours end right after the gap. If it comes twice, they end at the first 02:30.
        ("Europe/Madrid", "21:00-02:30", "2026-03-28T23:00:00", "2026-03-29T01:00"),
        ("Europe/Madrid", "21:00-02:30", "2026-10-24T23:00:00", "2026-10-25T00:30"),
        # In the repeated hour they begin again, and end at the second 02:30.
        ("Europe/Madrid", "21:00-02:30", "2026-10-25T01:00:00", "2026-10-25T01:30"),
        # A zone with an offset of 5:45 hours, and one that is 13 hours ahead.
        ("Asia/Kathmandu", "21:00-08:00", "2026-11-23T20:00:00", "2026-11-24T02:15"),
        ("Pacific/Apia", "21:00-08:00", "2026-11-23T08:00:00", "2026-11-23T19:00"),
        # Samoa skipped 30 December 2011: quiet from 21:00 on the 29th to the morning of the 31st.
        ("Pacific/Apia", "21:00-08:00", "2011-12-30T09:00:00", "2011-12-30T18:00"),
    ],
)
def test_quiet_hours_end_on_the_persons_own_clock(zone: str, quiet: str, now: str, expected: str) -> None:
    start, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (now, expected))
    assert earliest(start, zones=(ZoneInfo(zone),), quiet=parse_quiet_hours(quiet), caps=(), sent=()) == end


@pytest.mark.parametrize(
    ("caps", "hours_ago", "wait"),
    [
        ("1/24h", [], 0),
        ("1/24h", [24], 0),
        ("1/24h", [23], 1),
        ("1/24h,3/7d", [30, 60, 90], 78),
        ("1/24h,3/7d", [1, 60, 167], 23),
        ("2/24h", [1, 5, 20], 19),
        ("3/7d,1/24h", [2, 30, 40, 160], 128),
        ("", [0, 0, 0], 0),
    ],
)
def test_a_cap_waits_for_the_message_that_is_one_too_many_to_grow_old(
    caps: str, hours_ago: list[int], wait: int
) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    sent = [now - timedelta(hours=ago) for ago in hours_ago]
    moment = earliest(now, zones=(UTC_ZONE,), quiet=None, caps=parse_caps(caps), sent=sent)
    assert moment == now + timedelta(hours=wait)


def test_a_cap_that_ends_at_night_waits_for_the_morning() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    sent = [datetime(2026, 11, 22, 22, tzinfo=UTC)]
    assert earliest(now, zones=(UTC_ZONE,), quiet=NIGHT, caps=parse_caps("1/24h"), sent=sent) == datetime(
        2026, 11, 24, 8, tzinfo=UTC
    )


@settings(deadline=None)
@given(moment=moments, zone=zones, quiet=quiet_hours)
def test_quiet_hours_and_the_hours_between_them_are_one_day(
    moment: datetime, zone: ZoneInfo, quiet: QuietHours
) -> None:
    assert is_quiet(moment, (zone,), quiet) != is_quiet(moment, (zone,), QuietHours(quiet.end, quiet.start))
    assert is_quiet(moment, (zone,), quiet) == reads_quiet(moment, zone, quiet)


@pytest.mark.parametrize(
    ("place", "after", "reminder"),
    [
        (CadencePosition(2, 0).after_one_that_counts(), (3, 0), 3),
        (CadencePosition(2, 0).after_one_that_does_not_count(), (3, 1), 2),
        (CadencePosition(0, 0).after_one_that_does_not_count(), (1, 1), 0),
        (CadencePosition(5, 2).after_one_that_counts(), (6, 2), 4),
    ],
)
def test_only_a_message_that_counts_uses_up_a_reminder_and_no_step_comes_twice(
    place: CadencePosition, after: tuple[int, int], reminder: int
) -> None:
    assert place == after
    assert place.reminder == reminder


@pytest.mark.parametrize(
    ("days", "step", "expected"),
    [
        ((0, 3, 7, 14, 30), 0, timedelta(0)),
        ((0, 3, 7, 14, 30), 1, timedelta(days=3)),
        ((0, 3, 7, 14, 30), 4, timedelta(days=30)),
        ((0, 3, 7, 14, 30), 5, timedelta(days=30) + PATIENCE_AFTER_LAST),
        ((0, 3, 7, 14, 30), 99, timedelta(days=30) + PATIENCE_AFTER_LAST),
        ((0,), 1, PATIENCE_AFTER_LAST),
    ],
)
def test_a_reminder_is_so_many_days_after_the_first_message(
    days: tuple[int, ...], step: int, expected: timedelta
) -> None:
    first = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert next_reminder(first, step, days) == first + expected


@given(st.sets(st.integers(1, 400), max_size=6), st.integers(0, 8))
def test_reminders_never_go_back(later_days: set[int], step: int) -> None:
    first, days = datetime(2026, 11, 23, 12, tzinfo=UTC), (0, *sorted(later_days))
    assert first <= next_reminder(first, step, days) <= next_reminder(first, step + 1, days)


@settings(deadline=None, max_examples=150)
@given(now=moments, many=st.lists(zones, min_size=1, max_size=4, unique=True), quiet=quiet_hours)
def test_in_several_zones_it_is_day_in_all_if_it_ever_is_and_always_in_the_first(
    now: datetime, many: list[ZoneInfo], quiet: QuietHours
) -> None:
    moment = earliest(now, zones=many, quiet=quiet, caps=(), sent=())
    assert moment >= now
    assert not reads_quiet(moment, many[0], quiet)
    hours = [now + timedelta(minutes=15 * n) for n in range(4 * 24)]
    if any(not any(reads_quiet(hour, zone, quiet) for zone in many) for hour in hours):
        assert not any(reads_quiet(moment, zone, quiet) for zone in many)


def test_of_zones_that_share_no_day_the_last_are_left_out() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    far_apart = (MADRID, ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo"))
    moment = earliest(now, zones=far_apart, quiet=NIGHT, caps=(), sent=())
    assert moment == datetime(2026, 11, 23, 13, tzinfo=UTC)  # 14:00 and 8:00; in Tokyo it is 22:00
    assert not is_quiet(moment, far_apart, NIGHT)
