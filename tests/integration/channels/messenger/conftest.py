"""A simulated company messenger, which verifies what a careful receiver verifies."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

SECRET, NEXT_SECRET = "whsec_" + "A" * 32, "whsec_" + "B" * 32


class Messenger:
    """Accepts signed requests, once for each key. A wrong signature fails the request."""

    #: ``EVENTS_SECRETS`` during a change of keys: the receiver still has the old one.
    secrets: ClassVar[str] = f"{NEXT_SECRET},{SECRET}"

    def __init__(self) -> None:
        self.url = ""
        #: The statuses of the next answers; after them 204.
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        #: ``lost`` reads a request and closes the connection; ``hang`` never answers.
        self.fault: str | None = None
        #: Accepted requests by key. A repeated request is in ``requests`` only.
        self.taken: dict[str, Any] = {}
        self.requests: list[str] = []
        self.hanging = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.text()
        fields = Webhook(SECRET).verify(body, dict(request.headers))
        assert request.headers["Idempotency-Key"] == request.headers["webhook-id"] == fields["key"]
        assert request.headers["Content-Type"] == "application/json"
        self.requests.append(fields["key"])
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            self.taken.setdefault(fields["key"], fields)
        if self.fault == "lost" and request.transport is not None:
            request.transport.abort()
        if self.fault == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        return web.Response(status=status, headers=self.headers)


@pytest.fixture
async def messenger() -> AsyncIterator[Messenger]:
    here = Messenger()
    application = web.Application()
    application.router.add_post("/in/box/", here.take)
    async with TestServer(application, shutdown_timeout=0.1) as server:
        here.url = str(server.make_url("/in/box/")) + "?tenant=1"
        yield here
