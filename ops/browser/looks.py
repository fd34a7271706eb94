"""Each of our pages in each look and language: axe-core, no sideways scrolling, the keyboard.

A look is set on a loaded page, since a page that a press returned cannot be loaded again.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import CDPSession, Page

#: The rules of WCAG 2.2 AA, and axe-core's best practices.
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations", "incomplete"],
}
#: The window of a desktop computer, in CSS pixels.
DESK = (1280, 800)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Window size, colours and font size in which a page is checked."""

    name: str
    size: tuple[int, int] = DESK
    media: Mapping[str, Any] = field(default_factory=dict)
    #: The browser's default font size in CSS pixels: 16, unless the customer chose a larger one.
    letters: int = 16


LOOKS = (
    Look(name="light", media={"color_scheme": "light"}),
    Look(name="dark", media={"color_scheme": "dark"}),
    Look(name="320 px", size=(320, 640), media={"color_scheme": "light"}),
    # A browser's zoom halves the CSS pixels of its window.
    Look(name="zoom 200 %", size=(DESK[0] // 2, DESK[1] // 2), media={"color_scheme": "dark"}),
    Look(name="text 200 %", size=(640, 800), letters=32, media={"color_scheme": "light"}),
    Look(name="contrast", media={"color_scheme": "dark", "forced_colors": "active"}),
)

#: The looks in which every language is checked: a longer word can break a narrow page, but no colours.
WHERE_WORDS_MATTER = tuple(look for look in LOOKS if look.name in {"light", "320 px", "text 200 %"})

_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 0.5);
  const over = document.scrollingElement.scrollWidth - width;
  return over > 0 ? `${over} px too wide` : out.length ? `<${out[0].localName}> sticks out` : '';
}"""
#: After a blur alone, Tab would continue from the old place.
_TO_THE_TOP = """() => {
  document.body.tabIndex = -1;
  document.body.focus();
  document.body.removeAttribute('tabindex');
  scrollTo(0, 0);
}"""
_FOCUS = """async () => {
  await new Promise(requestAnimationFrame);
  const e = document.activeElement;
  if (!e || e === document.body || e === document.documentElement) return null;
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  const visible = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  // A page scrolls by whole pixels, and its boxes end between them.
  const inside = box.top >= -1 && box.bottom <= innerHeight + 1 && box.left >= -1 && box.right <= innerWidth + 1;
  const where = `${Math.round(box.top)} to ${Math.round(box.bottom)} of ${innerHeight} px`;
  return {place: [...document.querySelectorAll('a[href], button')].indexOf(e), visible, inside, where};
}"""


class Looking:
    """Checks the pages of one browser tab."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.evaluate(AXE_SCRIPT)
        self._devtools: CDPSession = page.context.new_cdp_session(page)

    def set(self, look: Look) -> None:
        """Set the window size, the colours and the font size."""
        self._page.set_viewport_size({"width": look.size[0], "height": look.size[1]})
        self._page.emulate_media(**({"forced_colors": "none"} | dict(look.media)))
        self._devtools.send(
            "Page.setFontSizes", {"fontSizes": {"standard": look.letters, "fixed": look.letters * 13 // 16}}
        )

    def problems(self) -> list[str]:
        """The problems of the page as it is shown."""
        wide: str = self._page.evaluate(_WIDE)
        found = [wide] if wide else []
        results = self._page.evaluate("options => axe.run(options)", RULES)
        found += [f"axe: {_told(rule)}" for rule in results["violations"]]
        # A rule that axe cannot decide needs a human, so it counts as a problem.
        found += [f"axe, undecided: {_told(rule)}" for rule in results["incomplete"]]
        return found + self._keyboard()

    def _keyboard(self) -> list[str]:
        """Problems of the keyboard: Tab must reach all links and buttons in order, and the focus must be visible."""
        self._page.evaluate(_TO_THE_TOP)
        count = self._page.locator("a[href], button").count()
        seen = []
        for _ in range(count):
            self._page.keyboard.press("Tab")
            focus = self._page.evaluate(_FOCUS)
            if focus is None:
                break
            seen.append(focus["place"])
            if not focus["visible"]:
                return ["keyboard: the focus is not seen"]
            if not focus["inside"]:
                return [f"keyboard: what has the focus is not in view: {focus['where']}"]
        return [] if seen == list(range(count)) else [f"keyboard: Tab goes to {seen} of {count}"]


def _told(rule: Mapping[str, Any]) -> str:
    return f"{rule['id']} at {rule['nodes'][0]['target'][0]}"


def each_look(page: Page, looks: tuple[Look, ...], seen: Callable[[str, list[str]], None]) -> None:
    """Check the page in every look; ``seen`` gets each look's name and problems."""
    looking = Looking(page)
    try:
        for look in looks:
            looking.set(look)
            seen(look.name, looking.problems())
    finally:
        with suppress(Exception):
            looking.set(LOOKS[0])
