"""The words of a push message: a title and a sentence, fit for a lock screen.

Whoever picks up the phone can read them, so they name the app and the bank at most: no amount, no date, no account, no link.
One language is one gettext catalogue; to add one is to add an entry to ``_CATALOGUES``: every sentence below goes through
gettext and so needs no change.
"""

from dataclasses import dataclass
from gettext import NullTranslations

from worker.channels import Message
from worker.channels.email.wording import clean

_FALLBACK = "en"


@dataclass(frozen=True, slots=True)
class PushText:
    """What one customer reads."""

    language: str
    title: str
    body: str

    def __repr__(self) -> str:  # where somebody banks is nobody's business
        return f"PushText({self.language})"


_CATALOGUES = {"en": NullTranslations()}


def word(message: Message, *, app: str) -> PushText:
    """The notice in the customer's language; the message names one bank or more, and ``app`` is what customers call the product."""
    language = language_for(message.locale)
    t = _CATALOGUES[language]
    count = len(message.banks)
    names = {
        "app": clean(app),
        "bank": clean(message.banks[0].name) or t.gettext("your bank"),
        "count": count,
    }
    title = t.ngettext("Reconnect {bank}", "Reconnect {count} of your banks", count)
    if message.step:
        body = t.ngettext(
            "{app} still receives no data from {bank}. Open {app} to connect it again.",
            "{app} still receives no data from {count} of your banks. Open {app} to connect them again.",
            count,
        )
    else:
        body = t.ngettext(
            "{app} no longer receives data from {bank}. Open {app} to connect it again.",
            "{app} no longer receives data from {count} of your banks. Open {app} to connect them again.",
            count,
        )
    return PushText(language=language, title=title.format(**names), body=body.format(**names))


def language_for(locale: str | None) -> str:
    """The catalogue for a BCP 47 tag: the tag itself, else its language, else English."""
    tag = (locale or "").replace("_", "-").lower()
    for candidate in (tag, tag.partition("-")[0]):
        if candidate in _CATALOGUES:
            return candidate
    return _FALLBACK
