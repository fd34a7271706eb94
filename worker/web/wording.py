"""The variables of the pages, made from the stages' answers: names made safe, dates in the customer's language and zone."""

from datetime import datetime, tzinfo
from typing import Any

from worker.channels.wording.languages import Language
from worker.display_names import shown
from worker.stages.link_page import Page, PageBank


def bank_name(language: Language, name: str) -> str:
    """A bank's name for the middle of a sentence."""
    return language.isolated(shown(name)) or language.translations.gettext("your bank")


def banks_of(page: Page, language: Language) -> list[dict[str, Any]]:
    """``banks`` of ``reconnect.html``."""
    return [_bank(bank, language, page.time_zone) for bank in page.banks]


def time_of(moment: datetime, language: Language, zone: tzinfo) -> str:
    """The time of day, on the customer's clock."""
    return language.time(moment.astimezone(zone))


def _bank(bank: PageBank, language: Language, zone: tzinfo) -> dict[str, Any]:
    return {
        "id": bank.reconnection_id,
        "name": bank_name(language, bank.name),
        "date": language.date(bank.since.astimezone(zone).date()),
        "state": str(bank.state),
    }
