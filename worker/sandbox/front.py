"""A proxy before `reconnect web` for development, like nginx or Caddy in production. It is the public address of our links.

It passes requests on unchanged, and adds ``X-Forwarded-For``. Hosts of simulated banks do not exist, so it changes redirects and links to
them in the answers to lead to the sandbox (:func:`~worker.sandbox.oauth_uris.localised`). So a person can go all the way in a browser:
mail, our page, the button, the bank's page.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from worker.errors import WorkerError
from worker.sandbox.browsing import is_loopback
from worker.sandbox.oauth_uris import localised

#: Headers of one connection alone (RFC 9110, 7.6.1), and those that aiohttp writes by itself.
_OWN = frozenset({
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "date",
})  # fmt: skip
_MOST_BYTES = 1 << 20
_PATIENCE = aiohttp.ClientTimeout(total=120)


class Front:
    """The proxy. ``base_url`` is the sandbox's own address, known once it listens."""

    def __init__(self, web_url: str) -> None:
        """``web_url``: where `reconnect web` listens. Raises :class:`WorkerError` for anything but http on loopback."""
        if not (is_loopback(web_url) and web_url.startswith("http:")):
            raise WorkerError("sandbox: --web must be where `reconnect web` listens, such as http://127.0.0.1:8080")
        self._web_url = web_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self.base_url = ""

    @asynccontextmanager
    async def running(self, host: str, port: int) -> AsyncIterator[int]:
        """Listen; yields the port, since 0 asks for a free one. Raises ``OSError``."""
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5, auto_decompress=False)
        async with aiohttp.ClientSession(
            timeout=_PATIENCE, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as self._session:
            await runner.setup()
            try:
                await web.TCPSite(runner, host, port).start()
                bound: int = runner.addresses[0][1]
                yield bound
            finally:
                await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None  # noqa: S101 - it runs only in `running`
        headers = CIMultiDict((n, v) for n, v in request.headers.items() if n.lower() not in _OWN)
        came_from = [*request.headers.getall(hdrs.X_FORWARDED_FOR, []), request.remote or ""]
        headers[hdrs.X_FORWARDED_FOR] = ", ".join(came_from)
        body = await request.read()
        try:
            async with self._session.request(
                request.method,
                URL(self._web_url + request.raw_path, encoded=True),
                headers=headers,
                data=body or None,
                skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE),
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=502, text="`reconnect web` does not answer. Try again in a moment.\n")
        back = CIMultiDict((n, v) for n, v in answer.headers.items() if n.lower() not in _OWN)
        if hdrs.LOCATION in back:
            back[hdrs.LOCATION] = localised(back[hdrs.LOCATION], self.base_url)
        if answer.content_type == "text/html":
            content = localised(content.decode(), self.base_url).encode()
        return web.Response(status=answer.status, headers=back, body=content)
