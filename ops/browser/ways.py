"""The customer's way: from the mail to our page, over the bank's redirects to its consent page, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Error, Locator, Page, Response

from ops.browser.place import BASE, PUBLIC, Place, address_of
from ops.browser.watching import Watched, watched
from tests.machine import wait_until

#: How many redirects a bank's link has. They lead over three host names of the sandbox, after the bank's own.
REDIRECTS = 5


@dataclass
class Step:
    """One expectation on the way, and whether it was met."""

    way: str
    what: str
    good: bool
    saw: str = ""


class Way:
    """One customer's way, step by step."""

    def __init__(self, name: str, place: Place, watch: Watched) -> None:
        self.name = name
        self.place = place
        self.watch = watch
        self.steps: list[Step] = []

    def check(self, what: str, good: bool, saw: str = "") -> None:
        self.steps.append(Step(self.name, what, good, saw))

    def open_mail(self, who: str) -> Page:
        """The customer's newest mail, as the sandbox's mailbox shows it."""
        page = self.watch.context.new_page()
        page.goto(f"{self.place.mailbox}?to={address_of(who)}")
        page.locator("table a").first.click()
        mail = page.locator("iframe")
        mail.first.wait_for(state="attached")  # the mailbox's page loads it
        self.check("the mail is there", mail.count() == 1)
        return page

    def to_our_page(self, mail: Page, press: Callable[[Locator], None]) -> Page:
        """Follow the link in the mail, which opens a new tab."""
        link = mail.frame_locator("iframe").get_by_role("link").first
        with self.watch.context.expect_page() as opened:
            press(link)
        page: Page = opened.value
        page.wait_for_load_state()
        self.check(
            "the mail's link opens our page", page.url.startswith(f"{BASE}/r/"), urlsplit(page.url).hostname or ""
        )
        self.check(
            "it names the bank", "Alder Bank" in page.locator("h1").inner_text(), page.locator("h1").inner_text()
        )
        return page

    def to_the_bank(self, page: Page, press: Callable[[Locator], None], *, what: str = "the button") -> None:
        """Press the button, and arrive at the consent page."""
        got: list[Response] = []

        def answered(response: Response) -> None:
            got.append(response)

        page.on("response", answered)
        press(page.get_by_role("button"))
        page.get_by_role("button", name="Allow").wait_for()
        page.remove_listener("response", answered)
        hops = [(urlsplit(response.url).hostname or "", response.status) for response in got]
        hosts = [host for host, _ in hops]
        self.check(
            f"{what} leads over {REDIRECTS} redirects to the consent page",
            [status for _, status in hops][-REDIRECTS - 1 :] == [302] * REDIRECTS + [200] and len(set(hosts)) >= 4,
            " → ".join(dict.fromkeys(hosts)),
        )
        sent = [
            response.request.all_headers().get("referer")
            for response in got
            if urlsplit(response.url).hostname != PUBLIC
        ]
        self.check("the bank gets no Referer", not any(sent), f"{len(sent)} requests")

    def comes_back(self, page: Page, link: str) -> None:
        """Check that the link's page says after a while that the bank is back."""

        def is_back() -> bool:
            page.goto(link)
            return "connected again" in page.locator("h1").inner_text()

        try:
            wait_until(is_back, what="coming back", seconds=25, grain=1)
        except AssertionError:
            self.place.sweep()
        self.check("our page says that it is connected again", is_back(), page.locator("h1").inner_text())
        self.check("and has no button", page.get_by_role("button").count() == 0)

    def end(self) -> list[Step]:
        problems = self.watch.end()
        self.check("no third party, no cookie, no complaint of the policy", not problems, "; ".join(problems[:3]))
        referers = self.place.machine.ledger()["referers"]
        self.check("the bank's log has no Referer", not referers, ", ".join(referers))
        return self.steps


def by_mouse(place: Place, browser: Browser) -> list[Step]:
    """With a mouse and `MX_REFERRAL_SOURCE=APP`: it ends on our /done. On the way the customer goes back once and presses again."""
    with watched(browser, locale="en-US") as watch:
        way = Way("mouse, APP", place, watch)
        page = way.to_our_page(way.open_mail("way"), lambda link: link.click())
        link = page.url
        way.to_the_bank(page, lambda button: button.click())
        page.go_back()
        page.get_by_role("button", name="Reconnect").wait_for()
        way.check("the browser's back button shows our page again", page.url == link)
        way.to_the_bank(page, lambda button: button.click(), what="the button, pressed once more,")
        page.get_by_role("button", name="Allow").click()
        page.wait_for_url(_is_done)
        way.check(
            "allowing ends on our page", page.locator("h1").inner_text() == "Thank you", page.locator("h1").inner_text()
        )
        way.comes_back(page, link)
        return way.end()


def by_double_click(place: Place, browser: Browser) -> list[Step]:
    """With a double click on the button, then "Deny"."""
    with watched(browser, locale="en-US") as watch:
        way = Way("double click, denied", place, watch)
        before = place.machine.ledger()["windows_minted"]
        page = way.to_our_page(way.open_mail("twice"), lambda link: link.click())
        way.to_the_bank(page, lambda button: button.dblclick(no_wait_after=True), what="a double click")
        minted = place.machine.ledger()["windows_minted"] - before
        way.check("both presses get one URI", minted <= 1, f"{minted} minted")
        page.get_by_role("button", name="Deny").click()
        page.wait_for_url(_is_done)
        heading = page.locator("h1").inner_text()
        way.check("denying ends on a page that says so", heading == "The connection was not made", heading)
        return way.end()


def by_keyboard(place: Place, browser: Browser) -> list[Step]:
    """With the keyboard only, JavaScript off and `MX_REFERRAL_SOURCE=BROWSER`: it ends on the bank's own page."""
    with watched(browser, locale="en-US", java_script_enabled=False) as watch:
        way = Way("keyboard, no JavaScript, BROWSER", place, watch)
        page = way.to_our_page(way.open_mail("plain"), _enter)
        link = page.url
        way.to_the_bank(page, _enter)
        _enter(page.get_by_role("button", name="Allow"))
        page.get_by_role("heading", name="Connected").wait_for()
        way.check("allowing ends on the bank's page", "You can close this page" in page.inner_text("main"))
        way.comes_back(page, link)
        return way.end()


def _is_done(url: str) -> bool:
    return url.startswith(f"{BASE}/done?")


def _enter(target: Locator) -> None:
    """Tab to the target and press Enter. Raises :class:`AssertionError` if Tab does not reach it."""
    page = target.page
    target.wait_for()
    for _ in range(30):
        if target.evaluate(
            "element => element === element.getRootNode().activeElement && element.ownerDocument.hasFocus()"
        ):
            page.keyboard.press("Enter")
            return
        page.keyboard.press("Tab")
    raise AssertionError("Tab does not reach what is to be pressed")


Walk = Callable[[Place, Browser], list[Step]]
#: The ways that need ``MX_REFERRAL_SOURCE=APP``.
APP: tuple[Walk, ...] = (by_mouse, by_double_click)
BROWSER: tuple[Walk, ...] = (by_keyboard,)


def walked(walk: Walk, place: Place, browser: Browser) -> list[Step]:
    """Walk a way; return its steps. If it ends early, the last step says why."""
    try:
        return walk(place, browser)
    except (Error, AssertionError) as error:
        return [Step(walk.__name__, "the way ends here", good=False, saw=str(error).strip().splitlines()[0])]
