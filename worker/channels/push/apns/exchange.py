"""One request to APNs over HTTP/2: returns the answer, or the outcome if there is no answer.

httpx's transport is used without its client. The client logs every URL, which holds the device token, and it follows redirects,
keeps cookies and uses the environment's proxies.

APNs acts on a request only after it received the whole request. So the message was certainly not delivered if the error comes
before the body is sent, or if APNs says that it did not process the stream (RFC 9113, 6.8 and 8.7). Otherwise the outcome is
:class:`~worker.channels.Unknown`.
"""

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any

from worker.channels import Doubt, Refusal, TryLater, Unknown
from worker.channels.push.http import CONNECT_PATIENCE, HttpResponse
from worker.errors import WorkerError

try:
    import h2.errors
    import h2.events
    import httpcore
    import httpx
except ImportError:
    raise WorkerError("push by APNs needs: pip install 'reconnection-worker[push]'") from None

#: At DEBUG they log headers, which hold the provider token and device tokens.
for _name in ("hpack", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

#: Connections of one process. One carries a hundred requests at once, so a second is opened only if the first fails.
_CONNECTIONS = 4
#: Seconds before an idle connection is closed. Apple treats frequent reconnecting as an attack.
_IDLE_SECONDS = 60.0
#: Octets of an answer that are read, and seconds to wait for them after the status.
_MAX_BODY, _BODY_PATIENCE = 64 * 1024, 5.0


class _Progress:
    """How much of a request was sent, by the transport's trace events."""

    def __init__(self) -> None:
        #: Whether the body may have been sent.
        self.began = False
        self.stream: int | None = None

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "http2.send_request_headers.started":  # comes again if the transport retries on another connection
            self.began = False
            self.stream = info["stream_id"]
        elif event == "http2.send_request_body.started":
            self.began = True


class Exchange:
    """HTTP/2 connections to APNs. The first request opens them, on the event loop of that request."""

    def __init__(self, base_url: str, *, patience: float, ssl_context: ssl.SSLContext | None = None) -> None:
        """``patience`` is the seconds for one request and its answer, ``ssl_context`` replaces the system's certificates."""
        self._base_url = base_url
        self._patience = patience
        self._ssl = ssl_context
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def post(self, path: str, *, headers: Mapping[str, str], body: bytes) -> HttpResponse | TryLater | Unknown:
        """One POST."""
        transport = self._transport or self._open()
        progress = _Progress()
        patience = self._patience
        request = httpx.Request(
            "POST",
            self._base_url + path,
            headers=headers,
            content=body,
            extensions={
                "timeout": {"connect": CONNECT_PATIENCE, "read": patience, "write": patience, "pool": patience},
                "trace": progress,
            },
        )
        try:
            async with asyncio.timeout(patience):
                response = await transport.handle_async_request(request)
        except Exception as error:  # noqa: BLE001 - after the request was sent every error must become an outcome
            code = _error_code(error)
            if not progress.began:
                return TryLater(code=code, whole_channel=True, refusal=Refusal(code, Doubt.UNREACHABLE))
            if _unprocessed(error, progress.stream):
                return TryLater(code="stream_refused", refusal=Refusal("stream_refused", Doubt.US))
            return Unknown(code=code, refusal=Refusal(code, Doubt.MESSAGE))
        return HttpResponse(response.status_code, response.headers, await _read(response))

    async def close(self) -> None:
        """Close every connection."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def _open(self) -> httpx.AsyncHTTPTransport:
        self._transport = httpx.AsyncHTTPTransport(
            verify=self._ssl or ssl.create_default_context(),
            http1=False,
            http2=True,
            limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_IDLE_SECONDS),
            trust_env=False,
        )
        return self._transport


async def _read(response: httpx.Response) -> bytes:
    """The body, or as much of it as arrives. An incomplete body is no error, because the status alone decides most outcomes."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_PATIENCE):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_BODY:
                    break
    except (httpx.HTTPError, TimeoutError):
        pass
    finally:
        await response.aclose()
    return bytes(body)


#: The first match counts.
_ERROR_CODES: tuple[tuple[str, tuple[type[Exception], ...]], ...] = (
    ("connect_timeout", (httpx.ConnectTimeout,)),
    ("timeout", (httpx.TimeoutException, TimeoutError)),
    ("connection_lost", (httpx.TransportError, OSError)),
)


def _error_code(error: Exception) -> str:
    """A word for an error, such as ``connect_timeout``. It never holds the error's text, which may contain a device token."""
    if isinstance(error, httpx.ConnectError):
        return "tls_failed" if _has_cause(error, ssl.SSLError) else "connect_failed"
    return next((code for code, kinds in _ERROR_CODES if isinstance(error, kinds)), "unexpected")


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unprocessed(error: Exception, stream: int | None) -> bool:
    """Whether APNs says that it did not process the request: REFUSED_STREAM, or GOAWAY with a lower last stream id."""
    cause = error.__cause__
    if not isinstance(cause, httpcore.RemoteProtocolError) or not cause.args or stream is None:
        return False
    event = cause.args[0]
    if isinstance(event, h2.events.ConnectionTerminated):
        return event.last_stream_id is not None and stream > event.last_stream_id
    return isinstance(event, h2.events.StreamReset) and event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
