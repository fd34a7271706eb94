"""``make browser``: the customer's pages in a real Chromium.

1. The customer's whole way: mail, our page, its button, redirects over several hosts, the bank's consent page, and back. Once with a
   mouse, once with a double click, and once with the keyboard and JavaScript off.
2. Each page in each language; 320 px wide, at 200 %, dark, and in high-contrast colours. axe-core must find nothing, no page may
   scroll sideways, and the keyboard must reach every link and button.

``--pictures FOLDER`` also takes the pictures of docs/. ``--only REGEX`` checks only the pages whose name matches, and no way.
Exit code 1 if anything fails. Everything is on loopback, and the browser can reach nothing else.
"""

import argparse
import itertools
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, Error
from rich.console import Console
from rich.table import Table

from ops.browser import chromium, pictures, place, ways
from ops.browser.looks import LOOKS, WHERE_WORDS_MATTER, each_look
from ops.browser.pages import Kind, kinds
from ops.browser.watching import watched

_BEHIND = "behind the page"
LANGUAGES = {"en": "en-US", "es": "es-ES", "fr": "fr-FR"}
#: The customers who get a mail at first. The customer of the last way gets one later, with other settings.
FIRST = tuple(who for who in place.CUSTOMERS if who != "plain")

out = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything; return 0 if no problem was found."""
    parser = argparse.ArgumentParser(prog="make browser", description="The customer's pages in a real Chromium.")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="take the pictures of the documentation too")
    parser.add_argument(
        "--only",
        default="",
        metavar="REGEX",
        help="look only at the pages whose name this regular expression finds, and at no way",
    )
    chosen = parser.parse_args(arguments)
    if problem := chromium.install():
        sys.stderr.write(f"browser: {problem}\n")
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="browser-") as folder,
        place.running(Path(folder)) as here,
        chromium.running(here.hosts, key_hash=here.key_hash) as browser,
    ):
        out.print(f"Chromium {browser.version}")
        here.machine.control(redirects=ways.REDIRECTS)
        here.work(MX_REFERRAL_SOURCE="APP")
        here.write_to(*FIRST)
        bad = 0 if chosen.only else _ways(here, browser, ways.APP)
        pages = list(kinds(here))
        if chosen.pictures is not None:
            pictures.take(browser, {kind.name: kind for kind in pages}, chosen.pictures)
        bad += _pages(browser, [kind for kind in pages if re.search(chosen.only, kind.name)])
        if not chosen.only:
            here.work(MX_REFERRAL_SOURCE="BROWSER")
            here.write_to("plain")
            bad += _ways(here, browser, ways.BROWSER)
    if bad:
        sys.stderr.write(f"browser: {bad} checks failed\n")
    return 1 if bad else 0


def _ways(here: place.Place, browser: Browser, which: Sequence[ways.Walk]) -> int:
    table = Table("the customer's way", "", "seen")
    bad = 0
    for walk in which:
        for step in ways.walked(walk, here, browser):
            bad += not step.good
            table.add_row(
                f"{step.way}: {step.what}",
                "ok" if step.good else "FAILED",
                step.saw,
                style=None if step.good else "red",
            )
    out.print(table)
    return bad


def _pages(browser: Browser, pages: Sequence[Kind]) -> int:
    """Check each page in each language and look, and print a table; return how many problems there were."""
    table = Table("page", *(look.name for look in LOOKS), _BEHIND)
    bad = 0
    for kind in pages:
        found: dict[str, list[str]] = defaultdict(list)
        for language in LANGUAGES:
            for column, problems in _looked_at(browser, kind, language).items():
                found[column] += [f"{language}: {problem}" for problem in problems]
        cells = [found[column] for column in (*(look.name for look in LOOKS), _BEHIND)]
        bad += (failed := sum(map(len, cells)))
        table.add_row(kind.name, *("\n".join(cell) or "ok" for cell in cells), style="red" if failed else None)
        print(f"{kind.name}: {'; '.join(itertools.chain(*cells)) or 'ok'}", file=sys.stderr, flush=True)
    table.caption = (
        f"{len(pages)} pages in {', '.join(LANGUAGES)}; colours and zoom in English. ok: axe-core (WCAG 2.2 AA and its best practices) finds nothing and leaves nothing "
        "undecided, nothing scrolls sideways, Tab reaches everything and shows where it is."
    )
    out.print(table)
    return bad


def _looked_at(browser: Browser, kind: Kind, language: str) -> dict[str, list[str]]:
    """The problems of a page by look, and the problems of its requests and cookies."""
    found: dict[str, list[str]] = {}
    with watched(browser, locale=LANGUAGES[language]) as watch:
        page = watch.context.new_page()
        try:
            kind.bring(page)
            each_look(page, LOOKS if language == "en" else WHERE_WORDS_MATTER, found.__setitem__)
        except (Error, AssertionError) as error:
            return {_BEHIND: [str(error).strip().splitlines()[0]]}
        shown = page.locator("html").get_attribute("lang")
        found[_BEHIND] = watch.end() + ([] if shown == language else [f"the page is in {shown}"])
    return found


if __name__ == "__main__":
    sys.exit(main())
