"""``/done``: where MX sends the user at the end of OAuth, with ``MX_REFERRAL_SOURCE=APP``.

Nothing in the address is signed, so anyone can make one up. It only decides which text the page shows, and makes a member be checked
sooner. The page is the same whether we know that member or not.
"""

import asyncio
from collections.abc import Mapping

import structlog
from aiohttp import web

from worker.mx.identifiers import is_member_guid
from worker.runtime import Runtime
from worker.stages.oauth_end import oauth_ended
from worker.web.pages import Pages
from worker.web.texts import REASONS

log = structlog.get_logger()

#: Hints that are handled at once; more are dropped, since every member is checked after a while anyway.
_MOST_HINTS = 50
#: Seconds that one hint may take, so that a database connection that hangs does not block later hints.
_HINT_SECONDS = 10.0


class DoneRoutes:
    """The handler, and its hints that are not handled yet."""

    def __init__(self, runtime: Runtime, pages: Pages) -> None:
        self._runtime = runtime
        self._pages = pages
        self._hints: set[asyncio.Task[None]] = set()

    async def show(self, request: web.Request) -> web.Response:
        """Thanks, or what went wrong and what to do."""
        # MX has written the address with HTML's `&amp;` in it, so a name may begin with `amp;`.
        parameters = {name.removeprefix("amp;"): value for name, value in reversed(list(request.query.items()))}
        guid = parameters.get("member_guid", "")
        if request.method == "GET" and is_member_guid(guid) and len(self._hints) < _MOST_HINTS:
            # In a task of its own, so that the time of the answer does not reveal whether we know the member.
            hint = asyncio.create_task(self._hint(guid))
            self._hints.add(hint)
            hint.add_done_callback(self._hints.discard)
        return self._pages.done(request, reason_of(parameters))

    async def close(self) -> None:
        """Wait for the hints that are being handled."""
        if self._hints:
            await asyncio.wait(self._hints, timeout=5)

    async def _hint(self, guid: str) -> None:
        try:
            async with asyncio.timeout(_HINT_SECONDS):
                await oauth_ended(self._runtime, guid)
        except Exception:  # a hint may be lost
            log.warning("hint_lost", exc_info=True)


def reason_of(parameters: Mapping[str, str]) -> str | None:
    """Why OAuth did not end well; ``None`` if it did."""
    if parameters.get("status", "").lower() == "success":
        return None
    reason = parameters.get("error_reason", "").upper()
    return reason if reason in REASONS else "UNKNOWN_ERROR"
