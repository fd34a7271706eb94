"""The words of a reconnect notice: templates, languages, dates.

One language is one :class:`_Catalogue`: a gettext translation under the same templates, and its own way to write a date. To
add one is to add an entry to ``_CATALOGUES``; templates mark every sentence with ``{% trans %}``, so that they need no change.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, tzinfo
from functools import cache, lru_cache
from gettext import NullTranslations
from pathlib import Path
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from worker.channels import Bank, Message

_TEMPLATES = Path(__file__).parent / "templates"
_FALLBACK = "en"

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


@dataclass(frozen=True, slots=True)
class _Catalogue:
    translations: NullTranslations
    readable_date: Callable[[date], str]


@dataclass(frozen=True, slots=True)
class _Templates:
    subject: Template
    text: Template
    html: Template


def _english_date(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


_CATALOGUES = {"en": _Catalogue(NullTranslations(), _english_date)}


def word(message: Message, *, app: str, time_zone: str) -> Wording:
    """The notice in the customer's language and time zone; ``time_zone`` serves where the message's own is unknown."""
    language = language_for(message.locale)
    zone = _zone(message.time_zone) or _zone(time_zone) or UTC
    catalogue = _CATALOGUES[language]
    values = {
        "app": app,
        "language": language,
        "reminder": message.step > 0,
        "banks": [_shown(bank, catalogue, zone) for bank in message.banks],
    }
    templates = _templates(language)
    subject = " ".join(templates.subject.render(values).split())
    return Wording(
        language=language,
        subject=subject,
        text=templates.text.render(values),
        html=templates.html.render(values, subject=subject),
    )


def language_for(locale: str | None) -> str:
    """The catalogue for a BCP 47 tag: the tag itself, else its language, else English."""
    tag = (locale or "").replace("_", "-").lower()
    for candidate in (tag, tag.partition("-")[0]):
        if candidate in _CATALOGUES:
            return candidate
    return _FALLBACK


def clean(text: str) -> str:
    """``text`` as one line that can be shown: no control characters, white space folded, not endless."""
    line = " ".join(_UNSHOWABLE.sub(" ", text).split())
    return line if len(line) <= _NAME_LIMIT else line[: _NAME_LIMIT - 1].rstrip() + "…"


def _shown(bank: Bank, catalogue: _Catalogue, zone: tzinfo) -> dict[str, str]:
    return {
        "name": clean(bank.name) or catalogue.translations.gettext("your bank"),
        "since": catalogue.readable_date(bank.since.astimezone(zone).date()),
        "link": bank.link,
    }


@cache
def _templates(language: str) -> _Templates:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES / "reconnect"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        newline_sequence="\r\n",  # as it goes on the wire
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_translations(_CATALOGUES[language].translations, newstyle=True)  # type: ignore[attr-defined]
    return _Templates(*(environment.get_template(name) for name in ("subject.txt", "body.txt", "body.html")))


@lru_cache(maxsize=1024)  # names come from users' rows
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        return None
