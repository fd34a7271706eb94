"""The words of a reconnect notice, for one customer: their language, their calendar, their banks."""

import re
from dataclasses import dataclass
from datetime import UTC, tzinfo
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

from worker.channels import Bank, Message
from worker.channels.email.texts import DATES, EXPIRING, RECONNECT, Texts, values_for
from worker.channels.wording import languages
from worker.channels.wording.languages import Language

#: A name longer than this is cut: it would push everything else out of the subject.
_NAME_LIMIT = 100

#: Controls (NUL, CR, LF, C1), line and paragraph separators, lone surrogates, byte order marks, and the marks that turn the
#: direction of writing, with which a name can be made to read as another.
_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]+")


@dataclass(frozen=True, slots=True)
class Wording:
    """What one customer reads; lines end with CRLF."""

    language: str
    subject: str
    text: str
    html: str

    def __repr__(self) -> str:
        return f"Wording({self.language})"


def word(message: Message, *, app: str, time_zone: str, texts: Texts | None = None) -> Wording:
    """The notice in the customer's language and time zone; ``time_zone`` serves where the message's own is unknown.

    ``texts`` are the templates, by default ours alone.
    """
    texts = texts or _ours()
    language = texts.language(message.locale)
    zone = _zone(message.time_zone) or _zone(time_zone) or UTC
    kind = EXPIRING if message.ahead else RECONNECT
    banks = [_shown(bank, language, zone, DATES[kind]) for bank in message.banks]
    rendered = texts.render(language, values_for(app, language, banks, reminder=message.step > 0), kind=kind)
    return Wording(language=language.tag, subject=rendered.subject, text=rendered.text, html=rendered.html)


def language_for(locale: str | None) -> str:
    """The catalogue for a BCP 47 tag: the tag itself, else its language, else English."""
    return languages.language_for(locale).tag


def clean(text: str) -> str:
    """``text`` as one line that can be shown: no control characters, white space folded, not endless."""
    line = " ".join(_UNSHOWABLE.sub(" ", text).split())
    return line if len(line) <= _NAME_LIMIT else line[: _NAME_LIMIT - 1].rstrip() + "…"


def _shown(bank: Bank, language: Language, zone: tzinfo, date: str) -> dict[str, str]:
    return {
        "name": clean(bank.name) or language.translations.gettext("your bank"),
        date: language.date(bank.since.astimezone(zone).date()),
        "link": bank.link,
    }


@cache
def _ours() -> Texts:
    return Texts()


@lru_cache(maxsize=1024)  # names come from users' rows
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return None
