import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from worker.errors import SettingsError
from worker.mx.transport import HttpResponse, code_of, proxy_for

MX = "https://vestibule.mx.com"
KEY = ConnectionKey(
    "vestibule.mx.com", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)
REQUEST = aiohttp.RequestInfo(URL(f"{MX}/users/USR-1"), "GET", {})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), "timeout"),
        (aiohttp.ServerTimeoutError(), "timeout"),
        (aiohttp.SocketTimeoutError(), "timeout"),
        (aiohttp.ConnectionTimeoutError(), "connect_timeout"),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), "connect_failed"),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "unknown")), "dns_failed"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "handshake")), "tls_failed"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, "expired")), "tls_failed"),
        (ssl.SSLError(1, "record"), "tls_failed"),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(111, "refused")), "proxy_failed"),
        (aiohttp.ClientHttpProxyError(REQUEST, (), status=407), "proxy_failed"),
        (aiohttp.ServerDisconnectedError(), "connection_lost"),
        (aiohttp.ClientConnectionResetError(), "connection_lost"),
        (aiohttp.ClientOSError(104, "reset"), "connection_lost"),
        (ConnectionResetError(104, "reset"), "connection_lost"),
        (OSError(24, "too many open files"), "connection_lost"),
        (aiohttp.ClientPayloadError("not completed"), "truncated"),
        (EOFError(), "truncated"),
        (aiohttp.ClientResponseError(REQUEST, (), status=400, message="bad header"), "not_http"),
        (AssertionError("secret"), "unexpected_AssertionError"),
    ],
)
def test_every_way_an_exchange_can_end_has_a_word(error, code):
    assert code_of(error) == code


def test_a_reply_does_not_show_its_body():
    assert repr(HttpResponse(200, {"X": "secret"}, b"secret")) == "HttpResponse(200)"


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    for name in (
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def test_without_a_proxy_in_the_environment_there_is_none():
    assert proxy_for(MX) is None


@pytest.mark.parametrize("written", ["http://proxy.example:3128", "proxy.example:3128"])
def test_the_proxy_of_the_environment_is_used_for_https(monkeypatch, written):
    monkeypatch.setenv("HTTPS_PROXY", written)
    assert proxy_for(MX) == URL("http://proxy.example:3128")


def test_no_proxy_is_used_where_the_environment_says_so(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "other.example,.mx.com")
    assert proxy_for(MX) is None


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:8080", "https://127.0.0.1:8080", "http://localhost", "http://[::1]:80"]
)
def test_no_proxy_is_used_towards_this_machine(monkeypatch, base):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert proxy_for(base) is None


@pytest.mark.parametrize(
    "written", ["socks5://user:secret@proxy.example", "http://", "http://[secret", "http://a:secret"]
)
def test_what_is_no_proxy_is_told_when_the_client_is_made(monkeypatch, written):
    monkeypatch.setenv("HTTPS_PROXY", written)
    with pytest.raises(SettingsError, match="HTTPS_PROXY") as caught:
        proxy_for(MX)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
