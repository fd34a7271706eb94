"""A simulated APNs, and channels to it."""

import datetime as dt
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from worker.channels import Bank, Message
from worker.channels.push.apns.channel import ApnsChannel
from worker.channels.push.apns.config import ApnsConfig
from worker.sandbox.phones.apple import DEVICE, KEY_ID, TEAM_ID, TOPIC, Apple

LINK = "https://mxbank.mx.com/oauth/authorize?client_id=b8Oi&state=d273e4f71bc095cf16c4acbee011caf4"


def pem_of(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="session")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def key_file(key, tmp_path) -> Path:
    file = tmp_path / f"AuthKey_{KEY_ID}.p8"
    file.write_bytes(pem_of(key))
    return file


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(the server's TLS context with h2, a client's context that trusts it), with a certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Apple of the tests")])
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
    server.set_alpn_protocols(["h2"])
    return server, ssl.create_default_context(cadata=pem.decode())


@pytest.fixture
async def apple(key, certificate) -> AsyncIterator[Apple]:
    """An :class:`Apple` whose address is ``apple.url``."""
    async with Apple(key.public_key(), certificate[0]).running() as apple:
        yield apple


@pytest.fixture
async def connect(apple, key_file, certificate) -> AsyncIterator[Callable[..., ApnsChannel]]:
    """``connect(…)``: an :class:`ApnsChannel` to ``apple``; the configuration's fields by name."""
    async with AsyncExitStack() as stack:

        def make(
            *,
            clock: Callable[[], float] = time.time,
            trusting: ssl.SSLContext | None = certificate[1],
            **overrides: Any,
        ) -> ApnsChannel:
            config = {
                "key_file": key_file,
                "key_id": KEY_ID,
                "team_id": TEAM_ID,
                "topic": TOPIC,
                "app_name": "Acme",
                "base_url": apple.url,
                "patience": 10.0,
            }
            channel = ApnsChannel(ApnsConfig(**{**config, **overrides}), ssl_context=trusting, clock=clock)
            stack.push_async_callback(channel.close)
            return channel

        yield make


@pytest.fixture
def make_message() -> Callable[..., Message]:
    def make(*, bank: str = "First Bank", link: str = LINK, **overrides: Any) -> Message:
        values = {
            "key": "5f0c1a2b3c4d5e6f708192a3b4c5d6e7",
            "address": DEVICE,
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
