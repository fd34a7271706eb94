"""The language of a message: its translations, and its form of dates.

A locale falls back one subtag at a time, ``fr-CA`` to ``fr``, and then to the default. Dates have CLDR's long form for the
customer's country if the locale names one: ``en-US`` gives ``March 4, 2026``. ``en`` alone gives ``4 March 2026``.
"""

from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache, lru_cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from worker.display_names import isolated
from worker.errors import SettingsError

#: The language of the msgids.
SOURCE = "en"

_CATALOGUES = Path(__file__).parent

#: The locale for dates if the customer's names no country. CLDR's plain ``en`` means the United States.
_WITHOUT_COUNTRY = {"en": "en_001"}


@dataclass(frozen=True, slots=True)
class Language:
    """The language of one customer's messages."""

    #: The BCP 47 tag of the catalogue.
    tag: str
    translations: NullTranslations = field(repr=False)
    #: The form of dates, such as ``en_US``.
    locale: Locale = field(repr=False)

    def date(self, day: date) -> str:
        """``4 March 2026``, ``4 de marzo de 2026``, ``4 mars 2026``."""
        return _date(day, self.locale)

    def time(self, moment: datetime) -> str:
        """``3:45 pm``, ``15:45``; the moment is in the customer's zone."""
        return format_time(moment, "short", locale=self.locale)

    def isolated(self, name: str) -> str:
        """A name for the middle of a sentence in this language; see :func:`worker.display_names.isolated`."""
        return isolated(name, right_to_left=self.locale.text_direction == "rtl")


@cache
def languages() -> tuple[str, ...]:
    """The tags of all languages that have a catalogue, in alphabetical order."""
    return tuple(sorted({SOURCE, *(path.stem for path in _CATALOGUES.glob("*.po"))}))


@lru_cache(maxsize=1024)  # locales come from users' rows
def language_for(locale: str | None, *, default: str = SOURCE) -> Language:
    """The language for a user's BCP 47 tag. Without a catalogue for the tag: the language for ``default``, else English."""
    for wanted in (locale or "", default, SOURCE):
        for tag in _fallbacks(wanted):
            if tag in languages():
                return Language(tag, _translations(tag), _own_dates(wanted, tag))
    raise AssertionError("unreachable")


def checked_default(locale: str | None) -> str:
    """``locale``, or English for ``None``. Raises :class:`~worker.errors.SettingsError` if there is no catalogue for it."""
    default = locale or SOURCE
    if not has_language(default):
        raise SettingsError(
            f"settings: DEFAULT_LOCALE: no catalogue for this language; expected one of {', '.join(languages())}"
        )
    return default


def has_language(locale: str) -> bool:
    """Whether there is a catalogue for this locale or for its language: ``fr-CA`` is served by ``fr``."""
    return any(tag in languages() for tag in _fallbacks(locale))


def _fallbacks(locale: str) -> list[str]:
    subtags = locale.replace("_", "-").lower().split("-")
    return ["-".join(subtags[:length]) for length in range(len(subtags), 0, -1)]


def _own_dates(locale: str, tag: str) -> Locale:
    """The customer's locale if it names a country and CLDR knows it; else the default locale of the catalogue's language."""
    plain = Locale.parse(_WITHOUT_COUNTRY.get(tag, tag.replace("-", "_")))
    try:
        own = Locale.parse(locale.replace("-", "_"), resolve_likely_subtags=False)
    except (ValueError, UnknownLocaleError):
        return plain
    return own if own.language == plain.language and own.territory else plain


@lru_cache(maxsize=4096)
def _date(day: date, locale: Locale) -> str:
    if locale.language == "fr" and day.day == 1:  # CLDR writes "1 mars", but French is "1er mars"
        return format_date(day, "d'er' MMMM y", locale=locale)
    return format_date(day, "long", locale=locale)


@cache
def _translations(tag: str) -> NullTranslations:
    """The catalogue, compiled in memory into gettext's binary form. This takes a few milliseconds, once in each process."""
    if tag == SOURCE:
        return NullTranslations()
    with (_CATALOGUES / f"{tag}.po").open("rb") as file:
        catalogue = read_po(file, locale=tag, abort_invalid=True)
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return GNUTranslations(compiled)
