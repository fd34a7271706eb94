"""``POST /webhooks/mx``: MX's webhooks. Each is stored as a hint, and answered with 204 once it is committed.

MX repeats a webhook that is not answered with 2xx, up to 12 times within about a day. A body that is no JSON or names no member would
be no better when it is repeated. So it is answered with 204 too, stored as ``unused``, and counted. The other statuses:

====== ===================================================================
401    other credentials than ``MX_WEBHOOK_AUTH``, or none
429    the same, more often than :attr:`~worker.web.limits.Limit.UNAUTHORISED` allows; authorised requests have no limit
413    more than 64 KB
415    a ``Content-Type`` that is not JSON, or a compressed body
408    a body that took longer than 10 s
503    the database is away; MX will send it again
====== ===================================================================

Without ``MX_WEBHOOK_AUTH`` the route does not exist (404).
"""

import asyncio

from aiohttp import hdrs, web

from worker.intake.webhooks import MOST_BYTES, hints_in
from worker.runtime import Runtime
from worker.store.transactions.hints import HintStore
from worker.web.client import Clients
from worker.web.credentials import Credentials
from worker.web.intake import HintIntake
from worker.web.limits import Limit, Limits

#: Seconds that a body may take.
_MOST_SECONDS = 10.0


class WebhookRoutes:
    """The handler."""

    def __init__(self, runtime: Runtime, credentials: Credentials, clients: Clients, limits: Limits) -> None:
        self._credentials = credentials
        self._clients = clients
        self._limits = limits
        self._intake = HintIntake(runtime.database.store(HintStore).add, lambda: runtime.wake("sync", 1))

    async def receive(self, request: web.Request) -> web.Response:
        """One webhook."""
        if not self._credentials.are_in(request):
            return await self._unauthorised(request)
        if not _is_json(request):
            return _refused(415, "The body has to be JSON, and not compressed.")
        try:
            body = await _body(request)
        except TimeoutError:
            return _refused(408, "The body took too long.")
        if body is None:
            return _refused(413, f"The body has more than {MOST_BYTES} bytes.")
        await self._intake.take(hints_in(body))
        return web.Response(status=204)

    async def close(self) -> None:
        """Store the waiting hints."""
        await self._intake.close()

    async def _unauthorised(self, request: web.Request) -> web.Response:
        address = self._clients.of(request.remote, request.headers.getall(hdrs.X_FORWARDED_FOR, []))
        wait = None if address is None else await self._limits.wait(Limit.UNAUTHORISED, address)
        if wait is not None:
            response = _refused(429, "Too many requests without the right credentials.")
            response.headers[hdrs.RETRY_AFTER] = str(max(round(wait), 1))
            return response
        response = _refused(401, "The credentials are not those of MX_WEBHOOK_AUTH.")
        response.headers[hdrs.WWW_AUTHENTICATE] = self._credentials.challenge
        return response


def _is_json(request: web.Request) -> bool:
    """Whether the body is uncompressed, and its ``Content-Type`` is JSON (``application/json``, ``application/fdx+json``) or missing."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        return False
    kind = request.content_type.lower()
    return (
        hdrs.CONTENT_TYPE not in request.headers or kind in {"application/json", "text/json"} or kind.endswith("+json")
    )


async def _body(request: web.Request) -> bytes | None:
    """The body; ``None`` if it is too large. Raises :class:`TimeoutError` if it is too slow."""
    if (request.content_length or 0) > MOST_BYTES:
        return None
    if request.content.is_eof():  # most bodies arrive with their headers
        body = request.content.read_nowait()
        return body if len(body) <= MOST_BYTES else None
    pieces = bytearray()
    async with asyncio.timeout(_MOST_SECONDS):
        async for piece in request.content.iter_any():
            pieces += piece
            if len(pieces) > MOST_BYTES:
                return None
    return bytes(pieces)


def _refused(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")
