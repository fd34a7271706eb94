"""The templates of the web pages: our own, and those of a tenant that replace them.

A tenant's are in the folder ``web`` of ``TEMPLATES_DIR``, beside those of the mails, and every file is optional:

- ``web/reconnect.html`` replaces ours in every language, ``web/fr/reconnect.html`` in French only.
- ``web/layout.html`` is around every page. A page begins with ``{% extends layout %}`` and fills the blocks ``title`` (without
  elements), ``heading`` and ``main``; the blocks ``style``, ``brand`` and ``footer`` are the layout's own.
- ``ours/web/…`` is our own file, and a file whose name begins with ``_`` is a part for ``{% include %}``, as in mails.

Every page gets the variables ``app``, ``language`` and ``direction`` (``ltr`` or ``rtl``), and its own:

=============================  =====================================================================================================
``reconnect.html``             ``banks``, each with ``id``, ``name``, ``date`` and ``state`` (``broken``, ``ahead``, ``back``,
                               ``ended``); ``bank`` is the first one's name, ``count`` how many there are; ``broken``, ``ahead`` and
                               ``open`` (both) are the banks in that state; ``all_back``; ``nonce``, to be posted with the button;
                               ``notice`` after the button was pressed: ``later``, ``too_many``, ``choose``, ``back``, ``ended`` or
                               ``""``, with ``until`` and ``named``
``leading.html``               ``uri``
``unknown.html``               nothing more; ``unknown_unsubscribe.html`` and ``refused.html`` too
``later.html``                 ``retry``: whether opening the same address again may help
``busy.html``                  ``seconds``
``done.html``                  ``reason``: ``none`` after success, else MX's ``error_reason``
``unsubscribe.html``           ``opted_out``; ``members``, each with ``guid``, ``name`` and ``muted``; ``done`` (``""``, ``all``,
                               ``bank``, ``undo``) with ``named``
=============================  =====================================================================================================

A page's Content-Security-Policy allows its ``<style>`` elements, and images as ``data:`` URLs. It blocks scripts, ``style="…"`` and
every other request. At the start a tenant's templates are rendered in every language, so a mistake is one error line at the start.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from jinja2 import Template

from worker.channels.email.texts import KINDS, WEB
from worker.channels.wording.languages import Language, checked_default, has_language, language_for, languages
from worker.channels.wording.templates import check_names, environment_for, failed, load, mistake
from worker.settings import Settings

LAYOUT = "layout.html"
RECONNECT, LEADING, UNKNOWN, UNKNOWN_UNSUBSCRIBE, LATER, BUSY, REFUSED, DONE, UNSUBSCRIBE = PAGES = (
    "reconnect.html", "leading.html", "unknown.html", "unknown_unsubscribe.html", "later.html", "busy.html", "refused.html",
    "done.html", "unsubscribe.html",
)  # fmt: skip

_OURS = Path(__file__).parent / "templates"
#: Characters of an ``Accept-Language`` that are read.
_ACCEPTED = 500


class Texts:
    """The pages in every language, ready to be filled in."""

    def __init__(self, folder: Path | None = None, *, default_locale: str | None = None) -> None:
        """``folder`` is a tenant's. Raises :class:`~worker.errors.SettingsError`, in one line, for a template that cannot be used."""
        self._default = checked_default(default_locale)
        if folder is not None:
            check_names(folder, [WEB], [LAYOUT, *PAGES], others=KINDS)
        self._pages: dict[tuple[str, str], Template] = {}
        self._layouts: dict[str, Template] = {}
        for tag in languages():
            environment = environment_for(_OURS, folder, language_for(tag))
            self._layouts[tag] = load(environment, WEB, tag, LAYOUT)
            for name in PAGES:
                self._pages[tag, name] = load(environment, WEB, tag, name)
        if folder is not None:
            for tag, name in self._pages:
                self._try_out(language_for(tag), name)

    def language(self, locale: str | None, accepted: str) -> Language:
        """The language for a user's locale, else for an ``Accept-Language``, else ``DEFAULT_LOCALE``."""
        if locale and has_language(locale):
            return language_for(locale)
        for tag in _by_preference(accepted[:_ACCEPTED]):
            if has_language(tag):
                return language_for(tag)
        return language_for(self._default)

    def render(self, name: str, language: Language, app: str, values: Mapping[str, Any]) -> str:
        """A page's HTML."""
        return self._pages[language.tag, name].render(
            values,
            app=app,
            language=language.tag,
            direction="rtl" if language.locale.text_direction == "rtl" else "ltr",
            layout=self._layouts[language.tag],
        )

    def _try_out(self, language: Language, name: str) -> None:
        for values, must_show in _examples(name):
            try:
                html = self.render(name, language, "App & <Co>", values)
            except Exception as error:  # noqa: BLE001 - a template can raise any error
                raise failed(error, WEB, language) from None
            for piece in ('<html lang="', "<h1", *must_show):
                if piece not in html:
                    raise mistake(f"{WEB}/{name} does not show {piece} (in {language.tag})")


def texts_for(settings: Settings) -> Texts:
    """The pages that the settings ask for: ``TEMPLATES_DIR``, ``DEFAULT_LOCALE``."""
    if settings.templates_dir is None:
        return _ours(settings.default_locale)
    return Texts(settings.templates_dir, default_locale=settings.default_locale)


@cache
def _ours(default_locale: str | None) -> Texts:
    return Texts(default_locale=default_locale)


def _by_preference(accepted: str) -> list[str]:
    """The languages of an ``Accept-Language`` (RFC 9110, 12.5.4), the highest weight first."""
    weighted = []
    for place, word in enumerate(accepted.split(",")):
        tag, _, weight = word.replace(" ", "").partition(";q=")
        try:
            quality = float(weight or 1)
        except ValueError:
            continue
        if tag and 0 < quality <= 1:
            weighted.append((-quality, place, tag))
    return [tag for _, _, tag in sorted(weighted)]


def _examples(name: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """For every case of a page: its variables, and the texts that the page must contain."""
    if name == RECONNECT:
        cases = [["broken"], ["ahead"], ["back"], ["ended"], ["broken", "ahead", "back", "ended"], ["back", "back"]]
        for states, notice in product(cases, ["", "later", "too_many", "choose", "back", "ended"]):
            banks = [
                {"id": 7 + n, "name": f"Bank {n} & <Sons>", "date": "4 March 2026", "state": state}
                for n, state in enumerate(states)
            ]
            shows = ['"x-nonce"'] if set(states) & {"broken", "ahead"} else []
            shows += [f'"{bank["id"]}"' for bank in banks if bank["state"] in {"broken", "ahead"}]
            yield reconnect_values(banks, nonce="x-nonce", notice=notice, until="15:45", named="Bank & <Sons>"), shows
    elif name == LEADING:
        yield {"uri": "https://bank.example/?a=1"}, ['href="https://bank.example/?a=1"']
    elif name == LATER:
        yield from (({"retry": retry}, []) for retry in (True, False))
    elif name == BUSY:
        yield from (({"seconds": seconds}, []) for seconds in (1, 30))
    elif name == DONE:
        yield from (({"reason": reason}, []) for reason in (None, *REASONS))
    elif name == UNSUBSCRIBE:
        members = [{"guid": f"MBR-{n}", "name": "Bank & <Sons>", "muted": n == 1} for n in range(2)]
        for opted_out, done, some in product([True, False], ["", "all", "bank", "undo"], [members, []]):
            shows = ['value="undo_all"' if opted_out else 'value="all"']
            yield {"opted_out": opted_out, "done": done, "members": some, "named": "Bank & <Sons>"}, shows
    else:
        yield {}, []


#: MX's values of ``error_reason``: why OAuth failed.
REASONS = (
    "CANCELLED", "DENIED", "IMPEDED", "PROVIDER_ERROR", "SERVER_ERROR", "SESSION_ERROR", "UNKNOWN_ERROR",
)  # fmt: skip


def reconnect_values(
    banks: list[dict[str, Any]], *, nonce: str, notice: str = "", until: str = "", named: str = ""
) -> dict[str, Any]:
    """The variables of ``reconnect.html``."""
    broken = [bank for bank in banks if bank["state"] == "broken"]
    ahead = [bank for bank in banks if bank["state"] == "ahead"]
    return {
        "banks": banks,
        "bank": banks[0]["name"],
        "count": len(banks),
        "broken": broken,
        "ahead": ahead,
        "open": broken + ahead,
        "all_back": all(bank["state"] == "back" for bank in banks),
        "nonce": nonce,
        "notice": notice,
        "until": until,
        "named": named,
    }
