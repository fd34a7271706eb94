"""A simulated push service, a browser that is subscribed there, and channels."""

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from worker.channels import Bank, Message
from worker.channels.push.webpush.channel import WebPushChannel
from worker.channels.push.webpush.config import WebPushConfig
from worker.sandbox.phones.browser import Browser, point_of
from worker.sandbox.phones.push_service import PushService

LINK = "https://mxbank.mx.com/oauth/authorize?client_id=b8Oi&state=d273e4f71bc095cf16c4acbee011caf4"


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="session")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def key_file(key, tmp_path) -> Path:
    file = tmp_path / "vapid.pem"
    file.write_bytes(pem_of(key))
    return file


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(the server's TLS context, a client's context that trusts it), with a self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "push service of the tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(pem + pem_of(key))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())


@pytest.fixture
async def serve(key) -> AsyncIterator[Callable[..., Any]]:
    """``await serve(ssl=…)``: a :class:`PushService` whose address is its ``url``."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> PushService:
            service = PushService(point_of(key))
            server = TestServer(service.application(), scheme="https" if options else "http")
            await server.start_server(**options)
            service.url = str(server.make_url("")).rstrip("/")
            stack.push_async_callback(server.close)
            stack.callback(service.closing.set)
            return service

        yield start


@pytest.fixture
async def service(serve) -> PushService:
    return await serve()


@pytest.fixture
def browser(service) -> Browser:
    return Browser(f"{service.url}/wpush/v2/t0ken")


@pytest.fixture
async def connect(key_file) -> AsyncIterator[Callable[..., WebPushChannel]]:
    """``connect(…)``: a :class:`WebPushChannel` that may post to loopback addresses; the configuration's fields by name."""
    async with AsyncExitStack() as stack:

        def make(*, trusting: ssl.SSLContext | None = None, **overrides: Any) -> WebPushChannel:
            config = {
                "vapid_key_file": key_file,
                "contact": "mailto:push@acme.example",
                "app_name": "Acme",
                "patience": 10.0,
                "allow_loopback": True,
            }
            channel = WebPushChannel(WebPushConfig(**{**config, **overrides}), ssl_context=trusting)
            stack.push_async_callback(channel.close)
            return channel

        yield make


@pytest.fixture
def make_message(browser) -> Callable[..., Message]:
    def make(*, bank: str = "First Bank", link: str = LINK, **overrides: Any) -> Message:
        values = {
            "key": "5f0c1a2b3c4d5e6f708192a3b4c5d6e7",
            "address": browser.subscription(),
            "locale": None,
            "time_zone": dt.UTC,
            "step": 0,
            "banks": (Bank(name=bank, since=dt.datetime(2026, 3, 3, tzinfo=dt.UTC), link=link),),
        }
        return Message(**{**values, **overrides})

    return make


class Record:
    """A ``dispatching`` that counts its calls."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def record() -> Record:
    return Record()
