"""One HTTP exchange with MX: a request and a bounded answer, or a short word for why there is none.

- Redirects are not followed, so that the keys are sent to no other host.
- There are no cookies and no ``.netrc``.
- aiohttp's own retries are off, because each GET may mint a URI. :mod:`worker.mx.retrying` decides on retries.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

import worker
from worker.errors import SettingsError
from worker.mx.answers import RetryLater
from worker.mx.pacing import NoPermit
from worker.settings.urls import is_loopback

#: Seconds for one exchange, including the wait for a connection of the pool. There is no separate limit for single reads: its timer
#: for every chunk would cost a tenth of a call, and would only notice a stalled answer somewhat sooner.
TOTAL = 20.0
#: Seconds for TCP and TLS together.
CONNECT = 5.0
#: Octets after decompression. A member has one or two thousand.
MAX_BODY = 256 * 1024
#: The same for a list: a page may have a thousand rows, each with metadata of the client.
MAX_LIST_BODY = 16 * 1024 * 1024


class HttpResponse(NamedTuple):
    """A complete HTTP answer. Its body may hold a live URI."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"HttpResponse({self.status})"


class Transport:
    """The HTTP session of this process with MX. The first request opens it, on the event loop that runs then.

    Callers keep at most ``max_connections`` requests in flight, because waiting for a connection uses up a request's time limit.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        max_connections: int,
        ssl_context: ssl.SSLContext | None = None,
        asks_before_sending: bool = False,
    ) -> None:
        """``asks_before_sending``: whether :meth:`send` supports ``before_sending``, which makes each call a little slower."""
        # Not the session's default headers: aiohttp would show those to a proxy too, outside the tunnel.
        # identity: answers are small, so decompression is not worth it. Compressed answers are understood all the same.
        self._headers = CIMultiDict(
            {**headers, "User-Agent": f"reconnection-worker/{worker.__version__}", "Accept-Encoding": "identity"}
        )
        self._headers_with_json = self._headers.copy()
        self._headers_with_json["Content-Type"] = "application/json"
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._proxy = proxy_for(base_url)
        self._traces = [_asking_before_sending()] if asks_before_sending else None
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        url: URL,
        *,
        body: bytes | None = None,
        within: float = TOTAL,
        max_octets: int = MAX_BODY,
        before_sending: Callable[[], Awaitable[None]] | None = None,
    ) -> HttpResponse | RetryLater:
        """One request of a URL that is already encoded, within so many seconds (at most :data:`TOTAL`).

        ``body``: JSON to POST; ``None`` for a GET.
        ``max_octets``: of the answer, after decompression.
        ``before_sending`` is awaited when a connection is open and nothing has been sent; :class:`NoPermit` from it is raised here.
        """
        session = self._session or self._open()
        try:
            response = await session.request(
                "GET" if body is None else "POST",
                url,
                data=body,
                headers=self._headers if body is None else self._headers_with_json,
                allow_redirects=False,
                timeout=_timeout(within),
                trace_request_ctx=before_sending,
            )
            try:
                answer = await _read(response, max_octets)
            except BaseException:
                response.close()
                raise
        except NoPermit:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the other side provokes is an answer
            return RetryLater(code=code_of(error))
        if answer is None:
            return RetryLater(code="too_large")
        return HttpResponse(response.status, response.headers, answer)

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._max_connections, ssl=True if self._ssl_context is None else self._ssl_context
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._proxy,
            trace_configs=self._traces,
            trust_env=False,  # it would read .netrc and the environment anew for every request, in threads
        )
        # Turns off aiohttp's own retry after a lost connection. aiohttp's test client uses this name too; a middleware would slow each call.
        self._session._retry_connection = False  # noqa: SLF001
        return self._session


def _asking_before_sending() -> aiohttp.TraceConfig:
    """Awaits a request's ``before_sending``. Despite its name, the signal comes before the headers are written."""

    async def ask(
        _session: aiohttp.ClientSession, context: Any, _headers: aiohttp.TraceRequestHeadersSentParams
    ) -> None:
        if context.trace_request_ctx is not None:
            await context.trace_request_ctx()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(ask)
    return trace


async def _read(response: aiohttp.ClientResponse, max_octets: int) -> bytes | None:
    """The whole body, so that the connection can be reused. ``None`` if it is too large; if more of it was to come, the connection is closed."""
    body = await response.content.readany()
    if response.content.at_eof():
        return body if len(body) <= max_octets else None
    parts = bytearray(body)
    while chunk := await response.content.readany():
        parts += chunk
        if len(parts) > max_octets:
            response.close()
            return None
    return bytes(parts)


_USUAL_TIMEOUT = aiohttp.ClientTimeout(total=TOTAL, sock_connect=CONNECT)


def _timeout(within: float) -> aiohttp.ClientTimeout:
    if within >= TOTAL:
        return _USUAL_TIMEOUT
    # For aiohttp, 0 would mean no limit.
    return aiohttp.ClientTimeout(total=max(within, 0.001), sock_connect=CONNECT)


#: The first match decides.
_CODES: tuple[tuple[str, tuple[type[Exception], ...]], ...] = (
    ("proxy_failed", (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)),
    ("tls_failed", (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch, ssl.SSLError)),
    ("dns_failed", (aiohttp.ClientConnectorDNSError,)),
    ("connect_failed", (aiohttp.ClientConnectorError,)),
    ("connect_timeout", (aiohttp.ConnectionTimeoutError,)),
    ("timeout", (TimeoutError,)),
    ("truncated", (aiohttp.ClientPayloadError, EOFError)),
    ("not_http", (aiohttp.ClientResponseError,)),
    ("connection_lost", (aiohttp.ClientConnectionError, OSError)),
)


def code_of(error: Exception) -> str:
    """A short word for the error of an exchange; never its text, which may contain a URL or a header."""
    return next((code for code, types in _CODES if isinstance(error, types)), f"unexpected_{type(error).__name__}")


def proxy_for(base_url: str) -> URL | None:
    """The proxy that ``HTTPS_PROXY`` and ``NO_PROXY`` name, read once as urllib reads them.

    Only for https, where a proxy tunnels and sees no key, and never for this machine. Raises :class:`SettingsError` if the value is not
    the URL of an HTTP proxy.
    """
    url = urlsplit(base_url)
    host = url.hostname or ""
    proxy = getproxies().get("https", "")
    if not proxy or url.scheme != "https" or is_loopback(host) or proxy_bypass(host):
        return None
    try:
        proxy_url = URL(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        proxy_url = URL()
    if proxy_url.scheme not in {"http", "https"} or not proxy_url.host:
        raise SettingsError("HTTPS_PROXY: expected a proxy such as http://proxy.example:3128, or unset it")
    return proxy_url
