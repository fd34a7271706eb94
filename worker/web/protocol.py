"""Replaces aiohttp's defaults that do not fit a public address: for slow clients, and for requests that cannot be parsed."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from worker.web.headers import common_headers

log = structlog.get_logger()

#: Seconds until an idle connection is closed. A proxy's own limit should be shorter; nginx' is 60 s, Caddy's 120 s.
KEEP_ALIVE = 130.0
#: Seconds that the first line and the headers of a request may take.
HEADER_SECONDS = 15.0
#: Seconds that a client may leave answers unread, once the kernel's buffers are full.
SEND_SECONDS = 30.0
#: Bytes of the first line and of one header; number of headers.
_LINE, _FIELD, _FIELDS = 4096, 8190, 64

_OPTIONS: Mapping[str, Any] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": KEEP_ALIVE,
    "lingering_time": 2.0,
    "max_field_size": _FIELD,
    "max_headers": _FIELDS,
    "max_line_size": _LINE,
}


class Runner(web.AppRunner):
    """Runs an application on our protocol."""

    def __init__(self, app: web.Application, *, https: bool, shutdown_timeout: float, header_seconds: float) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout)
        self._https = https
        self._header_seconds = header_seconds

    async def _make_server(self) -> web.Server:
        default_server = await super()._make_server()
        server = _Server(default_server.request_handler, request_factory=default_server.request_factory)
        server.headers = common_headers(https=self._https)
        server.header_seconds = self._header_seconds
        return server


class _Server(web.Server):
    headers: Mapping[str, str]
    header_seconds: float

    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **_OPTIONS)


class _Protocol(RequestHandler):
    """One connection."""

    def __init__(self, server: _Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        #: Closes the connection unless the headers of a request are complete by then.
        self._header_timer: asyncio.TimerHandle | None = None
        #: Closes the connection unless the client reads by then.
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timer: a new connection must send a request soon."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Stop the timer if a request's headers are complete, start it if a request has begun."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._stop_timer()
        elif self._waiter is not None and self._header_timer is None:
            self._await_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read. aiohttp would wait for ever, so a timer starts."""
        super().pause_writing()
        self._stop_send_timer()
        self._send_timer = self._loop.call_later(SEND_SECONDS, self._is_not_read)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_send_timer()
        super().resume_writing()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to invalid HTTP. aiohttp's own would log the client's address, and quote the request."""
        if request.writer.output_size > 0:
            raise ConnectionError("a response has been sent already")
        if isinstance(exc, LineTooLong) or "Too many headers" in (message or ""):
            status = 431
        if status >= 500:  # noqa: PLR2004
            log.error("web_request_failed", route="unknown", exc_info=exc)
        else:
            log.info("web_request", route="unknown", method="other", status=status, ms=0.0)
        text = "This did not work. Open the link in your message again.\n"
        response = web.Response(status=status, text=text, headers=self._server.headers)
        response.force_close()
        return response

    def _await_headers(self) -> None:
        self._header_timer = self._loop.call_later(self._server.header_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        self.force_close()

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _is_not_read(self) -> None:
        self._send_timer = None
        if self.transport is not None:
            self.transport.abort()  # close() would wait until the client has read what is left
