"""``/u/{token}``: unsubscribe. A GET changes nothing, because mail scanners follow this link too."""

import asyncio
from collections.abc import Mapping

import structlog
from aiohttp import web
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from worker.errors import DatabaseUnavailable
from worker.runtime import Runtime
from worker.stages.unsubscribing import Subscription, resubscribe, subscription, unsubscribe
from worker.web.forms import read_form
from worker.web.limits import Limit, Limits
from worker.web.overload import Overload
from worker.web.pages import Pages
from worker.web.texts import UNSUBSCRIBE
from worker.web.wording import bank_name

log = structlog.get_logger()

#: Opt-outs that are stored at once. The others wait, so that they leave database connections for customers' presses.
MOST_AT_ONCE = 10
#: Seconds for which storing an opt-out is retried while the database is away. It is longer than for a page: a mailbox provider waits.
PATIENCE = 20.0

#: What a mailbox provider posts (RFC 8058).
ONE_CLICK = ("List-Unsubscribe", "One-Click")


class OptOutRoutes:
    """The two handlers."""

    def __init__(self, runtime: Runtime, pages: Pages, limits: Limits, overload: Overload) -> None:
        self._runtime = runtime
        self._pages = pages
        self._limits = limits
        self._overload = overload
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def show(self, request: web.Request) -> web.Response:
        """The page with the choice."""
        self._overload.check()
        current = await subscription(self._runtime, request.match_info["token"])
        if current is None:
            return self._pages.unknown_unsubscribe(request)
        return self._page(request, current)

    async def change(self, request: web.Request) -> web.Response:
        """One click of a mailbox provider, or a button of the page: 200 once it is stored, never a redirect (RFC 8058, 3.2).

        404 for an unknown link, 429 for too many requests, 503 if the database stays away for :data:`PATIENCE`.
        """
        token, form = request.match_info["token"], await read_form(request)
        if (wait := await self._limits.wait(Limit.LINK, f"u:{token}")) is not None:
            return self._pages.busy(request, wait)
        async with self._turns:
            async for attempt in _while_the_database_is_away():
                with attempt:
                    return await self._change(request, token, form)
        raise AssertionError("unreachable")

    async def _change(self, request: web.Request, token: str, form: Mapping[str, str]) -> web.Response:
        before = await subscription(self._runtime, token)
        if before is None:
            return self._pages.unknown_unsubscribe(request)
        choice = "all" if form.get(ONE_CLICK[0]) == ONE_CLICK[1] else form.get("choice", "")
        wanted_guid = form.get("member")
        guid = next((member.member_guid for member in before.members if member.member_guid == wanted_guid), None)
        change = ""
        if choice == "all":
            change = "all" if await unsubscribe(self._runtime, token) else ""
            if not change:
                log.warning(
                    "opt_out_not_stored",
                    why="its user is not in `users`; the application deleted it, or did not write it",
                )
        elif choice == "undo_all":
            change = "undo" if await resubscribe(self._runtime, token) else ""
        elif choice == "bank" and guid is not None:
            change = "bank" if await unsubscribe(self._runtime, token, member_guid=guid) else ""
        elif choice == "undo_bank" and guid is not None:
            change = "undo" if await resubscribe(self._runtime, token, member_guid=guid) else ""
        after = await subscription(self._runtime, token)
        if after is None:  # the user was erased in between
            return self._pages.unknown_unsubscribe(request)
        return self._page(request, after, change=change, member_guid=guid)

    def _page(
        self, request: web.Request, current: Subscription, *, change: str = "", member_guid: str | None = None
    ) -> web.Response:
        """The choice of messages; ``change`` says what was changed just now."""
        language = self._pages.language(request, current.locale)
        members = [
            {"guid": member.member_guid, "name": bank_name(language, member.name), "muted": member.muted}
            for member in current.members
        ]
        named = next((member["name"] for member in members if member["guid"] == member_guid), "")
        values = {"opted_out": current.opted_out, "members": members, "done": change, "named": named}
        return self._pages.page(UNSUBSCRIBE, language, values)


def _while_the_database_is_away() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(DatabaseUnavailable),
        stop=stop_after_delay(PATIENCE),
        wait=wait_fixed(0.5),
        reraise=True,
    )
