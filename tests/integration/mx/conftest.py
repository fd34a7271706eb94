"""Servers and their clients, each for one test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.fernet import Fernet

from tests.integration.mx.servers import CLIENT_ID, KEY, Mx, Wire
from worker.mx.client import MxClient
from worker.mx.pacing import ledger
from worker.settings import Settings


@pytest.fixture(autouse=True)
def _patient_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real Redis may be given no CPU for a second; then a process would go on alone, which most tests here are not about."""
    monkeypatch.setattr(ledger, "_TIMEOUT", 10.0)


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    def make(**overrides: Any) -> Settings:
        values = {"mx_api_key": KEY, "mx_client_id": CLIENT_ID, "uri_keys": Fernet.generate_key().decode()}
        return Settings(_env_file=None, **(values | overrides))

    return make


@pytest.fixture
async def client_for(make_settings) -> AsyncIterator[Callable[..., MxClient]]:
    """Makes clients for a base URL, and closes them."""
    clients = []

    def make(base: str, *, deadline: float = 20.0, ssl_context: Any = None, **overrides: Any) -> MxClient:
        settings = make_settings(mx_base_url=base, **overrides)
        clients.append(MxClient(settings, deadline=deadline, ssl_context=ssl_context))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def web_mx(client_for) -> AsyncIterator[Callable[..., Awaitable[tuple[Mx, MxClient]]]]:
    """Starts an :class:`Mx` and a client of it."""
    servers = []

    async def start(*answers: Any, **options: Any) -> tuple[Mx, MxClient]:
        mx = Mx(*answers)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", mx.handle)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        mx.url = str(server.make_url("")).rstrip("/")
        return mx, client_for(mx.url, **options)

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def wire_mx(client_for) -> AsyncIterator[Callable[..., Awaitable[tuple[Wire, MxClient]]]]:
    """Starts a :class:`Wire` and a client of it."""
    started = []

    async def start(answer: Any, **options: Any) -> tuple[Wire, MxClient]:
        wire = Wire(answer)
        server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
        started.append((server, wire))
        return wire, client_for(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", **options)

    yield start
    for server, wire in started:
        server.close()
        await wire.close()
