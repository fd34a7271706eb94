"""The sandbox's webhooks have the fields of MX's, and are sent again until they are accepted."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from worker.cli.processes import free_port


@asynccontextmanager
async def receiver(refusals: int) -> Any:
    """A server that refuses the first ``refusals`` requests; yields its URL, and the requests that it accepted."""
    taken: list[tuple[str, dict[str, Any]]] = []
    refused = 0

    async def take(request: web.Request) -> web.Response:
        nonlocal refused
        if refused < refusals:
            refused += 1
            return web.Response(status=500)
        taken.append((request.headers.get("Authorization", ""), await request.json()))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/hook", taken
    finally:
        await runner.cleanup()


async def _until(taken: list[Any], count: int) -> None:
    async with asyncio.timeout(20):
        while len(taken) < count:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("refusals", [0, 1])
async def test_what_changes_is_told_as_mx_tells_it(sandbox_for: Any, refusals: int) -> None:
    async with (
        receiver(refusals) as (url, taken),
        sandbox_for({"a": {"connection_status": "CONNECTED"}}, aggregation_seconds=0) as sandbox,
    ):
        await sandbox.control(member="MBR-a", connection_status="DENIED")  # no URL is set yet
        await sandbox.control(webhooks={"url": url, "auth": "mx:secret"})
        await sandbox.control(member="MBR-a", connection_status="IMPAIRED")
        await _until(taken, 2)
        await sandbox.control(delete="MBR-a")
        await _until(taken, 3)
        said = sorted((body["type"], body["action"], body.get("connection_status")) for _, body in taken)
        assert said == [
            ("CONNECTION_STATUS", "CHANGED", "IMPAIRED"),
            ("MEMBER", "deleted", "IMPAIRED"),
            ("MEMBER", "updated", "IMPAIRED"),
        ]
        assert {auth for auth, _ in taken} == {"Basic bXg6c2VjcmV0"}
        await sandbox.control(webhooks=None)
