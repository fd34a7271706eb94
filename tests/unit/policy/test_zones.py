"""The time zone of a user: every clear way to write one is read, and an unclear one never leads to a message at night."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from babel.core import get_global
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.cadence import earliest
from worker.policy.zones import territory_of, zone_named, zones_of
from worker.settings.values import parse_quiet_hours

FALLBACK = ("America/St_Johns", "America/New_York", "America/Los_Angeles", "Pacific/Honolulu")
NIGHT = parse_quiet_hours("21:00-08:00")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Asia/Kathmandu", "Asia/Kathmandu"),
        (" america/new york\t", "America/New_York"),
        ("US/Pacific", "US/Pacific"),
        ("Eastern Standard Time", "America/New_York"),
        ("W. europe standard TIME", "Europe/Berlin"),
        ("Hawaiian Standard Time ", "Pacific/Honolulu"),
        ("UTC", "UTC"),
        ("UTC+2", "Etc/GMT-2"),
        ("GMT-05:00", "Etc/GMT+5"),
        ("-0500", "Etc/GMT+5"),
        ("utc\u22123", "Etc/GMT+3"),
    ],
)
def test_a_zone_is_read_in_every_plain_form(text: str, key: str) -> None:
    zones = zones_of(text, "en-US", default="Europe/Madrid")
    assert (str(zones.all[0]), len(zones.all), zones.understood) == (key, 1, True)


def test_half_hours_are_offsets_too() -> None:
    zone = zone_named("UTC+05:30")
    assert zone is not None
    assert datetime(2026, 1, 1, tzinfo=UTC).astimezone(zone).utcoffset() == timedelta(hours=5, minutes=30)


def test_every_name_of_windows_and_of_the_zone_database_is_understood() -> None:
    missing = [name for name in get_global("windows_zone_mapping") if zone_named(name) is None]
    missing += [name for name in available_timezones() if zone_named(name.lower()) is None]
    assert set(missing) <= {"localtime", "Factory", "posixrules"}


@pytest.mark.parametrize("text", [None, "", "  ", "\u00a0"])
def test_where_nothing_is_written_the_default_is_understood(text: str | None) -> None:
    zones = zones_of(text, "en-US", default="Europe/Madrid", fallback=FALLBACK)
    assert (zones.all, zones.understood) == ((ZoneInfo("Europe/Madrid"),), True)


@pytest.mark.parametrize(
    ("locale", "territory"),
    [
        ("en-US", "US"), ("EN_us", "US"), ("en_US.UTF-8", "US"), ("zh-Hant-TW", "TW"), ("en-UK", "GB"),
        ("es-419", None), ("fr", None), ("", None), (None, None), ("??", None), ("US", None),
    ],
)  # fmt: skip
def test_a_locale_names_a_country_or_none(locale: str | None, territory: str | None) -> None:
    assert territory_of(locale) == territory


@pytest.mark.parametrize("hour", range(24))
@pytest.mark.parametrize("day", ["2026-01-14", "2026-07-14", "2026-11-01"])
@pytest.mark.parametrize(
    ("locale", "possible"),
    [
        ("en_US", ("America/New_York", "America/Phoenix", "America/Anchorage", "Pacific/Honolulu")),
        ("ru-RU", ("Europe/Kaliningrad", "Europe/Moscow", "Asia/Kamchatka")),
        ("en-AU", ("Australia/Perth", "Australia/Sydney")),
        ("es", ("UTC", "America/New_York", "Pacific/Honolulu")),
        (None, ("UTC", "America/St_Johns", "Pacific/Honolulu")),
    ],
)
def test_a_zone_that_is_not_understood_never_means_a_message_at_night(
    locale: str | None, possible: tuple[str, ...], day: str, hour: int
) -> None:
    zones = zones_of("PST", locale, default="UTC", fallback=FALLBACK)
    assert not zones.understood
    now = datetime.fromisoformat(f"{day}T{hour:02}:20+00:00")
    moment = earliest(now, zones=zones.all, quiet=NIGHT, caps=(), sent=())
    assert moment - now < timedelta(days=2)
    for name in possible:
        assert 8 <= moment.astimezone(ZoneInfo(name)).hour < 21, (name, moment)


@given(st.text(max_size=20), st.none() | st.text(max_size=10))
def test_no_text_in_the_columns_stops_anything(name: str, locale: str | None) -> None:
    assert zones_of(name, locale, default="UTC", fallback=FALLBACK).all


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "../etc/passwd", "/etc/passwd", "Europe", "\x00", "\ud800", "PST", "+99"]
)
def test_what_is_no_zone_is_not_taken_for_one(name: str) -> None:
    assert zone_named(name) is None
