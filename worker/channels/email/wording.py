"""The text of one mail, in the customer's language and time zone."""

from dataclasses import dataclass
from datetime import tzinfo
from functools import cache

from worker.channels import Bank, Message
from worker.channels.email.texts import DATES, EXPIRING, RECONNECT, Texts, values_for
from worker.channels.wording import languages
from worker.channels.wording.languages import Language
from worker.display_names import shown


@dataclass(frozen=True, slots=True)
class Wording:
    """The text of one mail; lines end with CRLF."""

    language: str
    subject: str
    text: str
    html: str

    def __repr__(self) -> str:
        return f"Wording({self.language})"


def word(message: Message, *, app: str, texts: Texts | None = None) -> Wording:
    """The text in the customer's language and time zone. ``texts`` are the templates, by default our own."""
    texts = texts or _ours()
    language = texts.language(message.locale)
    zone = message.time_zone
    kind = EXPIRING if message.ahead else RECONNECT
    banks = [_listed(bank, language, zone, DATES[kind]) for bank in message.named]
    link = message.link
    values = values_for(
        language.isolated(shown(app)),
        language,
        banks,
        reminder=message.step > 0,
        count=message.count,
        page=link.page if link else None,
        unsubscribe=link.unsubscribe if link else None,
        link_until=language.date(link.until.astimezone(zone).date()) if link else None,
    )
    rendered = texts.render(language, values, kind=kind)
    return Wording(language=language.tag, subject=rendered.subject, text=rendered.text, html=rendered.html)


def language_for(locale: str | None) -> str:
    """The catalogue for a BCP 47 tag: the tag itself, else its language, else English."""
    return languages.language_for(locale).tag


def _listed(bank: Bank, language: Language, zone: tzinfo, date: str) -> dict[str, str]:
    return {
        "name": language.isolated(shown(bank.name)) or language.translations.gettext("your bank"),
        date: language.date(bank.since.astimezone(zone).date()),
        "link": bank.link,
    }


@cache
def _ours() -> Texts:
    return Texts()
