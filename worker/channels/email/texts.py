"""The mail templates: our own, and those of a tenant that replace them.

A tenant's folder (``TEMPLATES_DIR``) has the same layout as ours, and every file in it is optional:

- ``reconnect/subject.txt``, ``reconnect/body.txt``, ``reconnect/body.html`` replace ours in every language.
- ``reconnect/fr/body.txt`` replaces ours in French only.
- ``expiring/…`` is the same for notices before an expiry.
- ``web/…`` are the web pages (:mod:`worker.web.texts`).
- A file whose name begins with ``_`` is a part for ``{% include %}``.
- ``ours/…`` is our own file: ``{% extends "ours/reconnect/body.html" %}`` replaces one block and keeps the rest.

Templates get these variables:

- ``app``, ``language``, and ``reminder`` (true from the second message on)
- ``banks``, at most ten, each with ``name``, ``since`` and ``link``; ``bank`` and ``since`` are the first one's name and date
- ``count``, how many banks the message is about, and ``more``, how many of them it does not name
- ``subject``, in ``body.html`` only
- in ``expiring``, ``until`` instead of ``since``
- with ``PUBLIC_BASE_URL``: ``page`` (our link, which leads to all banks; each bank's ``link`` is the same), ``link_until`` (the date
  until which it works) and ``unsubscribe`` (where a customer asks for no more messages). Without the setting, they are ``None``.

Invisible characters are removed from names. A name in the other writing direction is put between FSI and PDI
(:mod:`worker.display_names`); in HTML the filter ``bdi`` puts it in a ``<bdi>`` element instead.

Templates run in Jinja's sandbox, and an undefined variable is an error. At the start a tenant's templates are rendered in every
language and for every kind of message. So a mistake is one error line at the start, not a mail that fails later.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.channels import MOST_NAMED
from worker.channels.wording.languages import Language, checked_default, language_for, languages
from worker.channels.wording.templates import check_names, environment_for, failed, load, mistake
from worker.settings import Settings

#: The kinds of mail, each a folder under ``templates/``: data has stopped, and data will stop.
RECONNECT, EXPIRING = KINDS = ("reconnect", "expiring")
#: The name of a bank's date in the templates of each kind.
DATES = {RECONNECT: "since", EXPIRING: "until"}
#: The folder of the web pages' templates, beside those of the mails. The web process checks it.
WEB = "web"
SUBJECT, TEXT, HTML = NAMES = ("subject.txt", "body.txt", "body.html")

_OURS = Path(__file__).parent / "templates"
#: Characters. RFC 5322 sets no limit; a longer subject is a mistake in the template.
_SUBJECT_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Rendered:
    """The three parts of a mail; lines of the bodies end with CRLF."""

    subject: str
    text: str
    html: str

    def __repr__(self) -> str:  # the bodies hold secret links
        return "Rendered(…)"


@dataclass(frozen=True, slots=True)
class _Templates:
    subject: Template
    text: Template
    html: Template

    def render(self, values: Mapping[str, Any]) -> Rendered:
        subject = " ".join(self.subject.render(values).split())
        text, html = self.text.render(values), self.html.render(values, subject=subject)
        return Rendered(subject, _with_crlf(text), _with_crlf(html))


class Texts:
    """The templates in every language, ready to be filled in."""

    def __init__(
        self, folder: Path | None = None, *, default_locale: str | None = None, our_links: bool = False
    ) -> None:
        """``folder`` is a tenant's. ``default_locale`` is used if the customer's locale has no catalogue. ``our_links``:
        messages will carry our links, so a tenant's templates are tried out with them.

        Raises :class:`~worker.errors.SettingsError`, in one line, for a template that cannot be used.
        """
        self._default = checked_default(default_locale)
        if folder is not None:
            check_names(folder, KINDS, NAMES, others=[WEB])
        self._templates = {}
        for tag in languages():
            environment = environment_for(_OURS, folder, language_for(tag))
            for kind in KINDS:
                self._templates[tag, kind] = _load(environment, tag, kind)
        if folder is not None:
            for (tag, kind), templates in self._templates.items():
                _try_out(templates, language_for(tag), kind, our_links=our_links)

    def language(self, locale: str | None) -> Language:
        """The language for a customer."""
        return language_for(locale, default=self._default)

    def render(self, language: Language, values: Mapping[str, Any], *, kind: str = RECONNECT) -> Rendered:
        """A mail of this kind in this language."""
        return self._templates[language.tag, kind].render(values)


def texts_for(settings: Settings) -> Texts:
    """The templates that the settings ask for: ``TEMPLATES_DIR``, ``DEFAULT_LOCALE``. Raises :class:`~worker.errors.SettingsError`."""
    if settings.templates_dir is None:
        return _ours(settings.default_locale)
    return Texts(
        settings.templates_dir,
        default_locale=settings.default_locale,
        our_links=settings.public_base_url is not None,
    )


@cache
def _ours(default_locale: str | None) -> Texts:
    """Our templates. A worker's main process compiles them once, so that its children do not: it takes 0.1 s of CPU."""
    return Texts(default_locale=default_locale)


def _load(environment: ImmutableSandboxedEnvironment, tag: str, kind: str) -> _Templates:
    return _Templates(*(load(environment, kind, tag, name) for name in NAMES))


#: The variables of a message with our own link, to try the templates out.
_OUR_LINK = {
    "page": "https://reconnect.example/r/token",
    "unsubscribe": "https://reconnect.example/u/token",
    "link_until": "2026",
}


def _try_out(templates: _Templates, language: Language, kind: str, *, our_links: bool) -> None:
    """Render and check an example of every message: about 1, 3 and 200 banks, first message and reminder."""
    for named, count in ((1, 1), (3, 3), (MOST_NAMED, 200)):
        for reminder in (False, True):
            banks = [
                {
                    "name": f"Bank {number} & <Sons>",
                    DATES[kind]: language.date(date(2026, 3, number)),
                    "link": _OUR_LINK["page"] if our_links else f"https://bank.example/oauth?number={number}&state=x",
                }
                for number in range(1, named + 1)
            ]
            ours = _OUR_LINK if our_links else {}
            values = values_for("App & <Co>", language, banks, reminder=reminder, count=count, **ours)
            _try(templates, language, kind, values)


def _try(templates: _Templates, language: Language, kind: str, values: Mapping[str, Any]) -> None:
    where = f"in {language.tag}"
    try:
        rendered = templates.render(values)
    except Exception as error:  # noqa: BLE001 - a template can raise any error
        raise failed(error, kind, language) from None
    if not rendered.subject or len(rendered.subject) > _SUBJECT_LIMIT:
        raise mistake(f"{kind}/{SUBJECT} gives {'no' if not rendered.subject else 'too long a'} subject ({where})")
    links_by_part = {TEXT: rendered.text.split(), HTML: _hrefs(rendered.html)}
    for name, links in links_by_part.items():
        if any(bank["link"] not in links for bank in values["banks"]):
            raise mistake(f"{kind}/{name} does not show the link of every bank ({where})")


def values_for(
    app: str,
    language: Language,
    banks: list[dict[str, str]],
    *,
    reminder: bool,
    count: int,
    page: str | None = None,
    unsubscribe: str | None = None,
    link_until: str | None = None,
) -> dict[str, Any]:
    """The variables of the templates, for a message that names ``banks`` and is about ``count`` banks."""
    first = banks[0]
    return {
        "app": app,
        "language": language.tag,
        "reminder": reminder,
        "banks": banks,
        "count": count,
        "more": count - len(banks),
        "bank": first["name"],
        "page": page,
        "unsubscribe": unsubscribe,
        "link_until": link_until,
        **{name: first[name] for name in DATES.values() if name in first},
    }


def _with_crlf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")


def _hrefs(html: str) -> set[str]:
    return {unescape(href) for pair in re.findall(r"""href\s*=\s*(?:"([^"]*)"|'([^']*)')""", html) for href in pair}
