"""The mails that are checked: every language, one bank and several, the first message and a reminder."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from zoneinfo import ZoneInfo

from worker.channels import Bank, Message
from worker.channels.wording.languages import languages

#: The sender, as in the demo.
SENDER = "Ledgerly <no-reply@ledgerly.example>"
REPLY_TO = "help@ledgerly.example"

#: A link as MX makes them. It gives access to nothing.
LINK = (
    "https://mxbank.mx.com/oauth/authorize?client_id=b8OikQ4Ep3NuSUrQ13DdvFuwpNx-qqoAsJDVAQCyLkQ"
    "&redirect_uri=https%3A%2F%2Fint-app.moneydesktop.com%2Foauth%2Fredirect_from&response_type=code"
    "&scope=openid&state=d273e4f71bc095cf16c4acbee011caf4"
)
BANKS = ("Alder Bank", "Banco del Río", "Caisse d'Épargne")

#: A customer's locale for each language, so that the fallback from locale to language is tested too.
LOCALES = {"en": "en-US", "es": "es-MX", "fr": "fr-CA"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A message and its name."""

    name: str
    message: Message


def samples() -> Iterator[Sample]:
    """All samples; their names are ``language-kind``."""
    for language, (step, count) in product(languages(), ((0, 1), (1, 1), (0, 3), (2, 3))):
        name = f"{language}-{'reminder' if step else 'first'}-{'several' if count > 1 else 'one'}"
        yield Sample(name, message(language, step=step, count=count))


def message(language: str, *, step: int, count: int) -> Message:
    """A message about ``count`` banks."""
    banks = tuple(
        Bank(name=bank, since=datetime(2026, 11, 1 + 7 * number, 23, 30, tzinfo=UTC), link=f"{LINK}{number}")
        for number, bank in enumerate(BANKS[:count])
    )
    return Message(
        key=f"sample-{language}-{step}-{count}",
        address="customer@mail.example",
        locale=LOCALES.get(language, language),
        time_zone=ZoneInfo("America/Toronto"),
        step=step,
        banks=banks,
    )
