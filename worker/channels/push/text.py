"""The text of a push message: a title and a sentence.

A lock screen shows it to anyone who picks up the phone. So the text names only the app and the bank: no amount, date, account or link.
The translations are in the same catalogues as those of mail, :mod:`worker.channels.wording`.
"""

from dataclasses import dataclass

from worker.channels import Message
from worker.channels.wording.languages import SOURCE, language_for
from worker.display_names import shown


@dataclass(frozen=True, slots=True)
class PushText:
    """The text of one push message."""

    language: str
    title: str
    body: str

    def __repr__(self) -> str:  # the name of a user's bank is personal
        return f"PushText({self.language})"


def word(message: Message, *, app: str, default_locale: str | None = None) -> PushText:
    """The text in the customer's language, else in that of ``default_locale``, else in English.

    ``message`` names at least one bank. ``app`` is the product's name.
    """
    language = language_for(message.locale, default=default_locale or SOURCE)
    t = language.translations
    count = message.count
    names = {
        "app": language.isolated(shown(app)),
        "bank": language.isolated(shown(message.banks[0].name)) or t.gettext("your bank"),
        "count": count,
    }
    title = t.ngettext("Reconnect {bank}", "Reconnect {count} of your banks", count)
    if message.ahead:
        title = t.ngettext("Renew your connection to {bank}", "Renew {count} of your connections", count)
        body = t.ngettext(
            "{app} will soon stop receiving data from {bank}. Open {app} to renew the connection before that.",
            "{app} will soon stop receiving data from {count} of your banks. Open {app} to renew the connections before that.",
            count,
        )
    elif message.step:
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
    return PushText(language=language.tag, title=title.format(**names), body=body.format(**names))
