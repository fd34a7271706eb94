"""``/r/{token}``: the customer's page, and its button."""

from aiohttp import web

from worker.policy.links import new_token
from worker.runtime import Runtime
from worker.stages.click import Answer, Back, Choose, LeadsTo, NoLink, TooMany, TryAgain, click
from worker.stages.link_page import Page, page_of
from worker.web.forms import read_form
from worker.web.limits import Limit, Limits
from worker.web.overload import Overload
from worker.web.pages import RETRY_AFTER, Pages

#: The most characters of a nonce that are used. Ours have 22.
_LONGEST_NONCE = 64
#: The most digits of an id that always fit in 64 bits.
_LONGEST_NUMBER = 18


class LinkRoutes:
    """The two handlers."""

    def __init__(self, runtime: Runtime, pages: Pages, limits: Limits, overload: Overload) -> None:
        self._runtime = runtime
        self._pages = pages
        self._limits = limits
        self._overload = overload

    async def show(self, request: web.Request) -> web.Response:
        """The page. Changes nothing."""
        self._overload.check()
        page = await page_of(self._runtime, request.match_info["token"])
        if page is None or not page.banks:
            return self._pages.unknown(request)
        return self._pages.reconnect(request, page, nonce=self._new_nonce())

    async def press(self, request: web.Request) -> web.Response:
        """The button: a redirect to the bank, or a page that says why not, and what to do instead."""
        token, form = request.match_info["token"], await read_form(request)
        if (wait := await self._limits.wait(Limit.LINK, f"r:{token}")) is not None:
            return self._pages.busy(request, wait)
        self._overload.check()
        answer = await click(
            self._runtime,
            token,
            reconnection_id=_number(form.get("reconnection", "")),
            # Without a nonce it counts as a page load of its own, so that its URI is shared with no other press.
            nonce=form.get("nonce", "")[:_LONGEST_NONCE] or self._new_nonce(),
        )
        if isinstance(answer, LeadsTo):
            return self._pages.leading(request, answer.uri)
        page = None if isinstance(answer, NoLink) else await page_of(self._runtime, token)
        if page is None or not page.banks:
            return self._pages.unknown(request)
        return self._page_with_notice(request, page, answer)

    def _page_with_notice(self, request: web.Request, page: Page, answer: Answer) -> web.Response:
        """The customer's page again, with a notice about the press."""
        nonce = self._new_nonce()
        match answer:
            case TryAgain(after):
                wait = after.total_seconds() if after else RETRY_AFTER
                return self._pages.reconnect(request, page, nonce=nonce, status=503, notice="later", retry_after=wait)
            case TooMany(until):
                wait = (until - self._runtime.clock.now()).total_seconds()
                return self._pages.reconnect(
                    request, page, nonce=nonce, status=429, notice="too_many", until=until, retry_after=wait
                )
            case Back(name):
                return self._pages.reconnect(request, page, nonce=nonce, notice="back", named=name)
            case _:
                notice = "choose" if isinstance(answer, Choose) else "ended"
                return self._pages.reconnect(request, page, nonce=nonce, notice=notice)

    def _new_nonce(self) -> str:
        return new_token(self._runtime.rng)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None
