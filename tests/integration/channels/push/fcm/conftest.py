"""A simulated FCM, and channels to it."""

import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from worker.channels import Bank, Message
from worker.channels.push.fcm.channel import FcmChannel
from worker.channels.push.fcm.config import FcmConfig
from worker.sandbox.phones.google import DEVICE, EMAIL, KEY_ID, PROJECT, Google

LINK = "https://mxbank.mx.com/oauth/authorize?client_id=b8Oi&state=d273e4f71bc095cf16c4acbee011caf4"


@pytest.fixture(scope="session")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def key_file(key, tmp_path) -> Callable[..., Path]:
    """``key_file(…)``: a service account's JSON key, with fields replaced by name."""

    def write(**overrides: Any) -> Path:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        info = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": KEY_ID,
            "private_key": pem.decode(),
            "client_email": EMAIL,
            "token_uri": "https://oauth2.googleapis.com/token",
        }
        file = tmp_path / "service-account.json"
        file.write_text(json.dumps({**info, **overrides}))
        return file

    return write


@pytest.fixture
async def google(key) -> AsyncIterator[Google]:
    """A :class:`Google` whose address is ``google.url``."""
    google = Google(key.public_key())
    server = TestServer(google.application())
    await server.start_server()
    google.url = str(server.make_url("")).rstrip("/")
    yield google
    google.closing.set()
    if google.token_gate is not None:
        google.token_gate.set()
    await server.close()


@pytest.fixture
async def connect(google, key_file) -> AsyncIterator[Callable[..., FcmChannel]]:
    """``connect(…)``: an :class:`FcmChannel` to ``google``; the configuration's fields by name."""
    async with AsyncExitStack() as stack:

        def make(*, clock: Callable[[], float] = time.time, **overrides: Any) -> FcmChannel:
            config = {
                "service_account_file": overrides.get("service_account_file") or key_file(),
                "app_name": "Acme",
                "base_url": google.url,
                "token_uri": f"{google.url}/token",
                "patience": 10.0,
            }
            channel = FcmChannel(FcmConfig(**{**config, **overrides}), clock=clock)
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
