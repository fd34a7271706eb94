"""Keys and URIs appear in no log, repr or traceback, and keys are sent to nobody but MX."""

import asyncio
import base64
import ipaddress
import logging
import ssl
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.mx.servers import BODY, CLIENT_ID, KEY, MEMBER, STATE, URI, USER, Wire, http, reset, saying
from worker.mx.answers import MemberState, RetryLater, Window

WINDOW = Window(uri=URI, member=MemberState(guid=MEMBER, connection_status="DENIED"))
#: The credentials in the Authorization header of Platform.
BASIC = base64.b64encode(f"{CLIENT_ID}:{KEY}".encode()).decode()
SECRETS = (KEY, CLIENT_ID, BASIC, STATE)
FLAVOURS = pytest.mark.parametrize("api", ["atrium", "platform"])
HOST = "mx.bank.test"


@FLAVOURS
async def test_nothing_secret_is_logged_at_any_level(web_mx, wire_mx, caplog, api):
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0

    async def broken(writer, n):
        if n == 1:
            return reset(writer)
        writer.write([http()[:-20], http(b"\x00" + BODY, headers="Set-Cookie: x\x01\r\n"), http(BODY, "500 No")][n % 3])
        return True

    _, client = await web_mx(
        saying(), saying(500, BODY), saying(400, BODY), saying(302, BODY, Location=URI), saying(), mx_api=api
    )
    _, torn = await wire_mx(broken, mx_api=api)
    shown = []
    for _ in range(4):
        shown += [repr(await client.oauth_window(USER, MEMBER)), repr(await torn.oauth_window(USER, MEMBER))]
        shown.append(repr(await torn.urgent_window(USER, MEMBER, within=5)))
    shown += [repr(client), repr(vars(client)), repr(vars(client._transport)), repr(vars(client._flavour))]
    shown += [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    for secret in SECRETS:
        assert not [text for text in shown if secret in text]


@FLAVOURS
async def test_a_traceback_with_all_its_locals_shows_no_key(web_mx, api):
    begun = asyncio.Event()

    async def hang(_request):
        begun.set()
        await asyncio.sleep(30)

    _, client = await web_mx(hang, mx_api=api)
    call = asyncio.create_task(client.oauth_window(USER, MEMBER))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await call
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "_request" in told
    assert "**********" in told
    for secret in (KEY, CLIENT_ID, BASIC):
        assert secret not in told


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The path of a PEM file with a self-signed certificate for 127.0.0.1 and HOST, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
async def tls_mx(certificate):
    """An MX with TLS: the :class:`Wire` and its port."""

    async def answer(writer, _n):
        writer.write(http())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    wire = Wire(answer)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0, ssl=context)
    yield wire, server.sockets[0].getsockname()[1]
    server.close()
    await wire.close()


async def test_a_server_that_cannot_prove_itself_sees_no_key(client_for, tls_mx):
    wire, port = tls_mx
    assert await client_for(f"https://127.0.0.1:{port}").oauth_window(USER, MEMBER) == RetryLater(code="tls_failed")
    assert not wire.heads


async def test_a_trusted_server_is_spoken_to(client_for, tls_mx, certificate):
    wire, port = tls_mx
    trust = ssl.create_default_context(cafile=str(certificate))
    client = client_for(f"https://127.0.0.1:{port}", ssl_context=trust)
    assert await client.oauth_window(USER, MEMBER) == WINDOW
    assert len(wire.heads) == 1


async def test_a_server_without_tls_sees_no_key(client_for, wire_mx):
    wire, plain = await wire_mx(None)
    port = plain._flavour.member_url(USER, MEMBER).port
    answer = await client_for(f"https://127.0.0.1:{port}", deadline=0.7).oauth_window(USER, MEMBER)
    assert isinstance(answer, RetryLater)
    assert not wire.heads


@pytest.fixture
async def proxy(tls_mx, monkeypatch):
    """A proxy, set in HTTPS_PROXY, that tunnels every host to the MX with TLS; yields the heads of the requests to the proxy."""
    heads = []
    tasks = set()

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", tls_mx[1])
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)
        inner_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://someone:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    yield heads
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_proxy_tunnels_and_sees_no_key(client_for, proxy, tls_mx, certificate):
    client = client_for(f"https://{HOST}", ssl_context=ssl.create_default_context(cafile=str(certificate)))
    for _ in range(3):
        assert await client.oauth_window(USER, MEMBER) == WINDOW
    (head,) = proxy
    assert head.startswith(f"CONNECT {HOST}:443 ".encode())
    assert b"Proxy-Authorization: Basic " in head
    assert b"MX-" not in head.upper()
    assert KEY.encode() not in head
    assert KEY.encode() in tls_mx[0].heads[0]
    assert b"Proxy-Authorization" not in tls_mx[0].heads[0]
    await client.close()


async def test_a_proxy_that_refuses_is_a_failure(client_for, wire_mx, monkeypatch):
    async def refuse(writer, _n):
        writer.write(http(b"", "407 Proxy Authentication Required"))
        return True

    wire, plain = await wire_mx(refuse)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", str(plain._flavour.member_url(USER, MEMBER).origin()))
    monkeypatch.setenv("NO_PROXY", "")
    assert await client_for(f"https://{HOST}").oauth_window(USER, MEMBER) == RetryLater(code="proxy_failed")
    assert all(KEY.encode() not in head for head in wire.heads)
