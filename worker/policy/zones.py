"""In which time zones may a user live?

``users.timezone`` holds what an application knows: an IANA name in any case (``America/New York``), a Windows name
(``Eastern Standard Time``, by CLDR's table), a fixed offset (``UTC+2``, ``-05:00``), or something that is none of these. The user
is written to only when it is day in every zone that this function gives. If the value is not understood, these are the zones of the
country in the user's locale. Without a country they are ``TIME_ZONE`` together with ``FALLBACK_TIME_ZONES``.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from babel.core import get_global

from worker.policy.columns import lower, stripped

#: Names in the zone database that name no place.
_NOWHERE = {"factory", "localtime", "posixrules"}
_OFFSET = re.compile(r"(?:utc|gmt|z)?\s*(?P<sign>[+\-\u2212])(?P<hours>0?[0-9]|1[0-4])(?::?(?P<minutes>[0-5][0-9]))?")
#: Territories under another code than ISO 3166's.
_OTHERWISE = {"UK": "GB", "EL": "GR"}
#: Zones of a country that keep the same time on both these days count once.
_WINTER, _SUMMER = datetime(2026, 1, 15, tzinfo=UTC), datetime(2026, 7, 15, tzinfo=UTC)


class Zones(msgspec.Struct, frozen=True):
    """The zones in all of which it must be day; the first is the likeliest."""

    all: tuple[tzinfo, ...]
    #: Whether ``users.timezone`` was empty or understood.
    understood: bool = True


@lru_cache(maxsize=4096)
def zones_of(name: str | None, locale: str | None, *, default: str, fallback: Sequence[str] = ()) -> Zones:
    """The zones in which a user may live, by ``timezone`` and ``locale``; ``default`` is ``TIME_ZONE``."""
    if name is None or not stripped(name):
        return Zones((ZoneInfo(default),))
    zone = zone_named(name)
    if zone is not None:
        return Zones((zone,))
    country = zones_of_country(territory_of(locale))
    return Zones(country or _distinct(tuple(ZoneInfo(key) for key in (default, *fallback))), understood=False)


def zone_named(name: str) -> tzinfo | None:
    """The zone that a text means; ``None`` if it means none."""
    word = lower(stripped(name))
    if word in {"z", "utc", "gmt"}:
        return ZoneInfo("UTC")
    if (offset := _OFFSET.fullmatch(word)) is not None:
        return _fixed(offset)
    key = _keys().get(word.replace(" ", "_")) or _windows().get(word)
    try:
        return ZoneInfo(key) if key else None
    except (KeyError, ValueError, OSError):
        return None


def territory_of(locale: str | None) -> str | None:
    """The country in a locale such as ``fr-CA``, ``EN_us`` or ``zh-Hant-TW.UTF-8``; ``None`` where it names none."""
    subtags = re.split(r"[-_]", re.split(r"[.@]", stripped(locale or ""))[0])
    for subtag in subtags[1:]:
        if re.fullmatch("[A-Za-z]{2}", subtag):
            return _OTHERWISE.get(subtag.upper(), subtag.upper())
    return None


@lru_cache(maxsize=512)
def zones_of_country(territory: str | None) -> tuple[tzinfo, ...]:
    """The zones of a country, one for each pair of winter and summer time; empty for an unknown country."""
    return _distinct(tuple(ZoneInfo(key) for key in _countries().get(territory or "", ())))


def _distinct(zones: Sequence[ZoneInfo]) -> tuple[tzinfo, ...]:
    by_offsets: dict[object, tzinfo] = {}
    for zone in zones:
        by_offsets.setdefault((_WINTER.astimezone(zone).utcoffset(), _SUMMER.astimezone(zone).utcoffset()), zone)
    return tuple(by_offsets.values())


def _fixed(offset: re.Match[str]) -> tzinfo:
    hours, minutes, sign = int(offset["hours"]), int(offset["minutes"] or 0), offset["sign"]
    # Whole hours by their name in the zone database, where the sign is the opposite: Etc/GMT-2 is two hours ahead of UTC.
    key = f"Etc/GMT{'-' if sign == '+' else '+'}{hours}"
    if not minutes and key.lower() in _keys():
        return ZoneInfo(key)
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(ahead if sign == "+" else -ahead)


@cache
def _keys() -> dict[str, str]:
    return {key.lower(): key for key in available_timezones() if key.lower() not in _NOWHERE}


@cache
def _windows() -> dict[str, str]:
    return {name.lower(): key for name, key in get_global("windows_zone_mapping").items()}


@cache
def _countries() -> dict[str, list[str]]:
    """The zones of each country in the order of the zone database, which lists the important ones first."""
    zones_by_country: dict[str, list[str]] = {}
    for line in (files("tzdata") / "zoneinfo" / "zone.tab").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            territory, _, key, *_ = line.split("\t")
            zones_by_country.setdefault(territory, []).append(key)
    return zones_by_country
