"""One POST to a push service over HTTP/1.1: returns the answer, or the outcome if there is no answer.

It follows no redirect, keeps no cookie, reads no ``.netrc`` and never retries. If the connection fails before the first octet of
the request is sent, the message was not delivered: :class:`~worker.channels.TryLater`. After that it may have been delivered:
:class:`~worker.channels.Unknown`.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

import worker
from worker.channels import TryLater, Unknown
from worker.errors import SettingsError
from worker.retry_after import retry_after
from worker.settings import urls as setting_urls

#: Seconds for TCP and TLS together.
CONNECT_PATIENCE = 5.0
#: Octets of an answer that are read. Real answers have a few hundred.
_MAX_BODY = 64 * 1024
#: Seconds. A longer ``Retry-After`` is cut to one day.
_LONGEST_WAIT = 86_400.0


class NonPublicAddress(OSError):  # noqa: N818 - it names the state
    """The host name has only private or otherwise special addresses."""


class HttpResponse(NamedTuple):
    """An HTTP answer. A long body is cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"HttpResponse({self.status})"


@dataclass(slots=True)
class _Progress:
    #: Whether a part of the request may have been sent.
    began: bool = False


class Poster:
    """An HTTP session with push services. The first request opens it, on the event loop of that request."""

    def __init__(
        self, *, patience: float, ssl_context: ssl.SSLContext | None = None, resolver: AbstractResolver | None = None
    ) -> None:
        """``patience`` is the seconds for one request and its answer, ``ssl_context`` replaces the system's certificates."""
        self._timeout = aiohttp.ClientTimeout(total=patience, sock_connect=CONNECT_PATIENCE)
        self._ssl = ssl_context
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> HttpResponse | TryLater | Unknown:
        """POST to a URL that is already encoded."""
        return await self.request("POST", url, headers=headers, body=body)

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes
    ) -> HttpResponse | TryLater | Unknown:
        """One request to a URL that is already encoded."""
        session = self._session or self._open()
        progress = _Progress()
        try:
            response = await session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=self._timeout,
                trace_request_ctx=progress,
            )
            return HttpResponse(response.status, response.headers, await _read(response))
        except Exception as error:  # noqa: BLE001 - after the request was sent every error must become an outcome
            code = error_code(error)
            return Unknown(code=code) if progress.began else TryLater(code=code)

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_began)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl or True, resolver=self._resolver),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"reconnection-worker/{worker.__version__}"},
            trace_configs=[tracing],
            trust_env=False,
        )
        return self._session


async def _began(_session: aiohttp.ClientSession, context: SimpleNamespace, _sent: object) -> None:
    context.trace_request_ctx.began = True


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, or as much of it as arrives. An incomplete body is no error, because the status alone decides most outcomes."""
    body = bytearray()
    try:
        while len(body) < _MAX_BODY and (chunk := await response.content.readany()):
            body += chunk
    except (aiohttp.ClientError, OSError, EOFError):  # a timeout is an OSError
        pass
    finally:
        if not response.content.at_eof():
            response.close()
    return bytes(body[:_MAX_BODY])


#: The code of :class:`NonPublicAddress`.
PRIVATE_ADDRESS = "private_address"

#: The first match counts.
_ERROR_CODES: tuple[tuple[str, tuple[type[Exception], ...]], ...] = (
    ("tls_failed", (aiohttp.ClientSSLError, ssl.SSLError)),
    ("dns_failed", (aiohttp.ClientConnectorDNSError,)),
    ("connect_failed", (aiohttp.ClientConnectorError,)),
    ("connect_timeout", (aiohttp.ConnectionTimeoutError,)),
    ("timeout", (TimeoutError,)),
    ("not_http", (aiohttp.ClientResponseError,)),
    ("connection_lost", (aiohttp.ClientError, OSError, EOFError)),
)


def error_code(error: Exception) -> str:
    """A word for an error, such as ``connect_timeout``. It never holds the error's text, which may contain a URL or a header."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, NonPublicAddress):
        return PRIVATE_ADDRESS
    return next((code for code, kinds in _ERROR_CODES if isinstance(error, kinds)), "unexpected")


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds in ``Retry-After``, at most one day; ``None`` if the header is missing or invalid."""
    return retry_after(headers, longest=_LONGEST_WAIT)


def service_url(setting: str, url: str) -> str:
    """``url`` without a slash at its end. Raises :class:`SettingsError` unless it is https, or http on this machine."""
    try:
        return setting_urls.service_url(url, "https://push.example.com")
    except ValueError as error:
        raise SettingsError(f"settings: {setting}: {error}") from None
