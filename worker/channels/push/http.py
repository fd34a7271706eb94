"""One POST to a push service over HTTP/1.1: a bounded answer, or what the lack of one means for the message.

Nothing is followed, remembered or repeated here: no redirect, no cookie, no ``.netrc``. A POST whose answer was lost after its
first octet had left may have been delivered, so that is :class:`~worker.channels.Unknown`; before, it is certain that nothing was.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

import worker
from worker.channels import TryLater, Unknown
from worker.errors import SettingsError
from worker.settings import urls as setting_urls

#: Seconds for TCP and TLS together.
CONNECT_PATIENCE = 5.0
#: Octets of an answer that are looked at; what matters in it takes a few hundred.
_MAX_BODY = 64 * 1024
#: A day: what a service may ask us to wait at most, in seconds.
_LONGEST_WAIT = 86_400.0


class RefusedAddress(OSError):  # noqa: N818 - it names the state
    """What a resolver raises for a name that leads nowhere we may go."""


class HttpResponse(NamedTuple):
    """An HTTP answer, its body possibly cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"HttpResponse({self.status})"


@dataclass(slots=True)
class _Progress:
    #: Whether anything of the request may have left.
    began: bool = False


class Poster:
    """A session towards push services, opened by the first request on the loop that is running then."""

    def __init__(
        self, *, patience: float, ssl_context: ssl.SSLContext | None = None, resolver: AbstractResolver | None = None
    ) -> None:
        """``patience`` is the seconds for one exchange, ``ssl_context`` replaces the system's certificates."""
        self._timeout = aiohttp.ClientTimeout(total=patience, sock_connect=CONNECT_PATIENCE)
        self._ssl = ssl_context
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> HttpResponse | TryLater | Unknown:
        """POST to a URL that is already encoded."""
        session = self._session or self._open()
        progress = _Progress()
        try:
            response = await session.post(
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=self._timeout,
                trace_request_ctx=progress,
            )
            return HttpResponse(response.status, response.headers, await _read(response))
        except Exception as error:  # noqa: BLE001 - whatever the other side provokes is an answer, above all once it has the request
            code = outcome_without_answer(error)
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
    """What can be had of the body: the status line alone already says what became of the message."""
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


#: The code of :class:`RefusedAddress`.
PRIVATE_ADDRESS = "private_address"

#: The first that fits decides.
_LACKS: tuple[tuple[str, tuple[type[Exception], ...]], ...] = (
    ("tls_failed", (aiohttp.ClientSSLError, ssl.SSLError)),
    ("dns_failed", (aiohttp.ClientConnectorDNSError,)),
    ("connect_failed", (aiohttp.ClientConnectorError,)),
    ("connect_timeout", (aiohttp.ConnectionTimeoutError,)),
    ("timeout", (TimeoutError,)),
    ("not_http", (aiohttp.ClientResponseError,)),
    ("connection_lost", (aiohttp.ClientError, OSError, EOFError)),
)


def outcome_without_answer(error: Exception) -> str:
    """A short word for what there was instead of an answer; never the error's text, which may hold a URL or a header."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, RefusedAddress):
        return PRIVATE_ADDRESS
    return next((code for code, kinds in _LACKS if isinstance(error, kinds)), "unexpected")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait (RFC 9110, 10.2.3), at most a day; ``None`` for nothing and for nonsense."""
    value = next((v.strip() for name, v in headers.items() if name.lower() == "retry-after"), "")
    if value.isascii() and value.isdecimal():
        return min(float(value), _LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), _LONGEST_WAIT)


def service_url(setting: str, url: str) -> str:
    """``url`` without a slash at its end; raises :class:`SettingsError` unless it is https, or http towards this machine."""
    try:
        return setting_urls.service_url(url, "https://push.example.com")
    except ValueError as error:
        raise SettingsError(f"settings: {setting}: {error}") from None
