"""The variables of the pages, from what the stages answer: names made safe, dates in the customer's language and zone."""

from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from worker.channels.wording.languages import Language
from worker.display_names import shown
from worker.stages.link_page import Page, PageBank


def bank_name(language: Language, name: str) -> str:
    """A bank's name for the middle of a sentence."""
    return language.isolated(shown(name)) or language.translations.gettext("your bank")


def banks_of(page: Page, language: Language) -> list[dict[str, Any]]:
    """``banks`` of ``reconnect.html``."""
    zone = zone_of(page.time_zone)
    return [_bank(bank, language, zone) for bank in page.banks]


def time_of(moment: datetime, language: Language, time_zone: str) -> str:
    """The time of day, on the customer's clock."""
    return language.time(moment.astimezone(zone_of(time_zone)))


@lru_cache(maxsize=1024)  # names come from users' rows
def zone_of(name: str) -> tzinfo:
    """The zone of this name; UTC if there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return UTC


def _bank(bank: PageBank, language: Language, zone: tzinfo) -> dict[str, Any]:
    return {
        "id": bank.reconnection_id,
        "name": bank_name(language, bank.name),
        "date": language.date(bank.since.astimezone(zone).date()),
        "state": str(bank.state),
    }
