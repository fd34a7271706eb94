"""Produces each page that a customer can get, by real requests to the real process."""

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from playwright.sync_api import Page, Route

from ops.browser.place import BASE, CUSTOMERS, Place, guid_of
from worker.cli.processes import free_port
from worker.web.texts import REASONS


@dataclass(frozen=True)
class Kind:
    """A page: its name, and a function that opens it in a browser tab."""

    name: str
    bring: Callable[[Page], object]


def kinds(place: Place) -> Iterator[Kind]:
    """All pages."""
    make = _Making(place)
    link = {
        who: place.links_of(who)
        for who in ("one", "long", "several", "back", "ahead", "ended", "down", "often", "stop")
    }
    make.closed(link["ended"][0], "ended", 0, "unsupported")
    make.closed(link["back"][0], "back", 0, "connected")
    make.back_and_ended(link["several"][0])
    stop = link["stop"][1]
    yield Kind("one bank", _at(link["one"][0]))
    yield Kind("one bank with a long name", _at(link["long"][0]))
    yield Kind("four banks in two states", _at(link["several"][0]))
    for notice, number in (("choose", None), ("back", make.back), ("ended", make.ended)):
        yield Kind(f"four banks, pressed: {notice}", make.pressed_for(link["several"][0], number))
    yield Kind("ahead of an expiry", _at(link["ahead"][0]))
    yield Kind("back", _at(link["back"][0]))
    yield Kind("ended", _at(link["ended"][0]))
    yield Kind("unknown or expired", _at(f"{BASE}/r/{'x' * 22}"))
    yield Kind("MX is down: try again", make.down(link["down"][0]))
    yield Kind("pressed too often", make.often(link["often"][0]))
    yield Kind("too many requests", make.busy(link["down"][1]))
    yield Kind("our database is away", _at(make.away()))
    yield Kind("a request of no page of ours", make.shown("PUT", link["one"][0]))
    yield Kind("the text of the redirect", make.shown("POST", link["one"][0]))
    yield Kind("unsubscribe", make.unsubscribe(stop, "undo_all"))
    yield Kind("no messages about one bank", make.unsubscribe(stop, "undo_all", "bank"))
    yield Kind("one bank, undone", make.unsubscribe(stop, "bank", "undo_bank"))
    yield Kind("no messages at all", make.unsubscribe(stop, "undo_all", "all"))
    # Another link, since one link accepts thirty presses a minute.
    yield Kind("all messages, undone", make.unsubscribe(link["one"][1], "all", "undo_all"))
    yield Kind("unsubscribe, unknown", _at(f"{BASE}/u/{'x' * 22}"))
    yield Kind("done", _at(f"{BASE}/done?status=success&member_guid={guid_of('one', 0)}"))
    for reason in REASONS:
        yield Kind(f"done: {reason}", _at(f"{BASE}/done?status=error&error_reason={reason}"))


def _at(url: str) -> Callable[[Page], object]:
    return lambda page: page.goto(url)


class _Making:
    """The steps before a page can be shown."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.back = self.ended = 0

    def closed(self, link: str, who: str, number: int, step: str) -> int:
        """Press a bank's button while MX answers with ``step``, which closes the reconnection; return its id."""
        self._place.machine.control(member=guid_of(who, number), script=[step])
        return self._press_twice(link, CUSTOMERS[who][number].split()[0])

    def back_and_ended(self, link: str) -> None:
        """Let one of four banks come back, and let another one end."""
        self.back = self.closed(link, "several", 1, "connected")
        self.ended = self.closed(link, "several", 3, "unsupported")

    def _press_twice(self, link: str, bank: str) -> int:
        """Press twice: the first press gets the window that was stored for the mail, the second asks MX. Returns the reconnection's id."""
        _, html, _ = self._place.ask("GET", link, Accept_Language="en")
        found = re.search(rf'name="reconnection" value="(\d+)">\s*<button[^>]*>[^/]*{bank}', html)
        assert found, f"no button for {bank}"
        for _ in range(2):
            self._press(link, found[1])
        return int(found[1])

    def _press(self, link: str, reconnection: str = "") -> int:
        form = {"nonce": secrets.token_urlsafe(16)} | ({"reconnection": reconnection} if reconnection else {})
        return self._place.ask("POST", link, form)[0]

    def pressed_for(self, link: str, reconnection: int | None) -> Callable[[Page], object]:
        """The answer to a press on a page that was loaded before this reconnection closed."""

        def bring(page: Page) -> None:
            page.goto(link)
            page.evaluate(
                "value => document.querySelectorAll('[name=reconnection]').forEach(input => { input.value = value; })",
                "" if reconnection is None else str(reconnection),
            )
            _press(page, "form button")

        return bring

    def down(self, link: str) -> Callable[[Page], object]:
        """The answer to a press while MX fails."""
        self._place.machine.control(member=guid_of("down", 0), script=["503"])
        self._press(link)

        def bring(page: Page) -> None:
            page.goto(link)
            _press(page, "form button", HTTPStatus.SERVICE_UNAVAILABLE)

        return bring

    def often(self, link: str) -> Callable[[Page], object]:
        """The answer to more presses than a link may mint in an hour."""
        assert HTTPStatus.TOO_MANY_REQUESTS in (self._press(link) for _ in range(25)), "25 presses were all served"

        def bring(page: Page) -> None:
            page.goto(link)
            _press(page, "form button", HTTPStatus.TOO_MANY_REQUESTS)

        return bring

    def busy(self, link: str) -> Callable[[Page], object]:
        """The answer to more presses than a link accepts in a minute."""

        def bring(page: Page) -> None:
            asked = (self._place.ask("POST", link, {"choice": "nothing"})[0] for _ in range(100))
            assert HTTPStatus.TOO_MANY_REQUESTS in asked, "100 presses were all served"
            page.goto(link)
            _press(page, "form button", HTTPStatus.TOO_MANY_REQUESTS)

        return bring

    def away(self) -> str:
        """The address of a link at a web process whose database has no tables."""
        address = f"127.0.0.1:{free_port()}"
        self._place.serve(
            "web-without-database", WEB_LISTEN=address, PUBLIC_BASE_URL=f"http://{address}",
            DATABASE_URL=f"sqlite:///{self._place.machine.folder / 'empty.db'}",
        )  # fmt: skip
        return f"http://{address}/r/{'x' * 22}"

    def shown(self, method: str, link: str) -> Callable[[Page], object]:
        """The page of an answer that no browser shows: to a PUT, or the text of a redirect."""

        def bring(page: Page) -> None:
            language = page.evaluate("() => navigator.language")
            _, html, headers = self._place.ask(
                method, link, {"nonce": secrets.token_urlsafe(16)}, Accept_Language=language
            )

            def answer(route: Route) -> None:
                policy = headers["Content-Security-Policy"]
                route.fulfill(
                    status=200, body=html, content_type="text/html", headers={"Content-Security-Policy": policy}
                )

            page.route("**/shown", answer)
            page.goto(f"{BASE}/shown")

        return bring

    def unsubscribe(self, link: str, *choices: str) -> Callable[[Page], object]:
        """The page after these choices. The first choice is made before the page is opened, the others on the page."""

        def bring(page: Page) -> None:
            before = {"undo_all": ("undo_all", "undo_bank")}.get(choices[0], (choices[0],))
            for choice in before:
                self._place.ask("POST", link, {"choice": choice, "member": guid_of("stop", 0)})
            page.goto(link)
            for choice in choices[1:]:
                _press(page, f"form:has([name=choice][value={choice}]) button")

        return bring


def _press(page: Page, button: str, status: int = HTTPStatus.OK) -> None:
    with page.expect_response(lambda response: response.request.method == "POST") as got:
        page.locator(button).first.click()
    assert got.value.status == status, f"the press brought {got.value.status}, not {status}"
    page.wait_for_load_state()
