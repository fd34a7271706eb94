"""One request to APNs over HTTP/2: a bounded answer, or what the lack of one means for the message.

httpx's transport is used without its client: the client would log every URL, and with it the device's address, and has
redirects, cookies and the environment's proxies to offer, none of which is wanted.

APNs can act on a request only once it has all of it. So a fault before its body goes out leaves it certainly unsent, and so
does a stream that APNs says it did not process (RFC 9113, 6.8 and 8.7); after that it may have been delivered.
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

#: They write headers, and with them tokens and addresses, at DEBUG.
for _name in ("hpack", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

#: Connections of one process. Each carries a hundred requests at once, so a second is opened only after trouble with the first.
_CONNECTIONS = 4
#: Seconds for which an idle connection is kept: Apple takes frequent reconnecting for an attack.
_KEPT = 60.0
#: Octets of an answer that are looked at, and seconds to wait for them once its status is there.
_MAX_BODY, _BODY_PATIENCE = 64 * 1024, 5.0


class _Progress:
    """How far a request came, as the transport traces it."""

    def __init__(self) -> None:
        #: Whether its last octet may have left.
        self.began = False
        self.stream: int | None = None

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "http2.send_request_headers.started":  # again, where the transport moves to another connection
            self.began = False
            self.stream = info["stream_id"]
        elif event == "http2.send_request_body.started":
            self.began = True


class Exchange:
    """HTTP/2 connections to APNs, opened by the first request on the loop that is running then."""

    def __init__(self, base_url: str, *, patience: float, ssl_context: ssl.SSLContext | None = None) -> None:
        """``patience`` is the seconds for one exchange, ``ssl_context`` replaces the system's certificates."""
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
        except Exception as error:  # noqa: BLE001 - whatever the other side provokes is an answer, above all once it has the request
            if not progress.began:
                return TryLater(code=_lack(error), whole_channel=True, refusal=Refusal(_lack(error), Doubt.UNREACHABLE))
            if _unprocessed(error, progress.stream):
                return TryLater(code="stream_refused", refusal=Refusal("stream_refused", Doubt.US))
            return Unknown(code=_lack(error), refusal=Refusal(_lack(error), Doubt.MESSAGE))
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
            limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_KEPT),
            trust_env=False,
        )
        return self._transport


async def _read(response: httpx.Response) -> bytes:
    """What can be had of the body: the status alone already says what became of the message."""
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


#: The first that fits decides.
_LACKS: tuple[tuple[str, tuple[type[Exception], ...]], ...] = (
    ("connect_timeout", (httpx.ConnectTimeout,)),
    ("timeout", (httpx.TimeoutException, TimeoutError)),
    ("connection_lost", (httpx.TransportError, OSError)),
)


def _lack(error: Exception) -> str:
    """A short word for what there was instead of an answer; never the error's text, which may hold an address."""
    if isinstance(error, httpx.ConnectError):
        return "tls_failed" if _has_cause(error, ssl.SSLError) else "connect_failed"
    return next((code for code, kinds in _LACKS if isinstance(error, kinds)), "unexpected")


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unprocessed(error: Exception, stream: int | None) -> bool:
    """Whether APNs says itself that it did nothing with the request: REFUSED_STREAM, or GOAWAY before its stream."""
    cause = error.__cause__
    if not isinstance(cause, httpcore.RemoteProtocolError) or not cause.args or stream is None:
        return False
    event = cause.args[0]
    if isinstance(event, h2.events.ConnectionTerminated):
        return event.last_stream_id is not None and stream > event.last_stream_id
    return isinstance(event, h2.events.StreamReset) and event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
