"""An application's endpoint for events, on a socket. It verifies each request with the Standard Webhooks library, and fails as told to."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

#: What the receiver does with a request: answers with a status (and headers), or `hang`, or `lose` the answer after keeping the event.
Behaviour = int | tuple[int, dict[str, str]] | str

KEY = "whsec_" + "a2V5" * 8
OLD_KEY = "whsec_" + "b2xk" * 8


@dataclass
class Receiver:
    """The requests that came in, and how the endpoint answers."""

    url: str = ""
    #: Returns the behaviour for an event and the number of this try (from 1). The default accepts everything.
    behave: Callable[[dict[str, Any], int], Behaviour] = lambda _event, _nth: 204
    #: Every request, verified: (headers, event).
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    #: Bodies of these requests, as received.
    bodies: list[bytes] = field(default_factory=list)
    #: Each accepted event once, in the order of its first acceptance.
    kept: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    #: The number of requests whose signature was wrong.
    unverified: int = 0
    _tries: dict[str, int] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            event = Webhook(KEY).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.unverified += 1
            return web.Response(status=401)
        assert request.headers["webhook-id"] == event["id"]
        self.requests.append((dict(request.headers), event))
        self.bodies.append(body)
        nth = self._tries[event["id"]] = self._tries.get(event["id"], 0) + 1
        did = self.behave(event, nth)
        if did == "hang":
            await asyncio.sleep(3600)
        if did == "lose":
            self._keep(event)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, headers = did if isinstance(did, tuple) else (int(did), {})
        if 200 <= status < 300:
            self._keep(event)
        else:
            self.refused += 1
        return web.Response(status=status, headers=headers)

    def _keep(self, event: dict[str, Any]) -> None:
        if all(each["id"] != event["id"] for each in self.kept):
            self.kept.append(event)

    def sequences(self, key: str = "user_guid") -> dict[str, list[int]]:
        """The sequence numbers of the accepted events, in order, grouped by a field of their data."""
        found: dict[str, list[int]] = {}
        for event in self.kept:
            found.setdefault(event["data"].get(key, ""), []).append(event["sequence"])
        return found


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/in", receiver.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/in"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@contextmanager
def receiving_aside() -> Iterator[Receiver]:
    """A receiver on its own event loop in a thread, for tests that are not async."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="receiver", daemon=True)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    made = receiving()
    try:
        yield run(made.__aenter__())
    finally:
        run(made.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
