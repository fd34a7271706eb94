"""taskiq with one task for each member, which asks with aiohttp: ``taskiq worker ops.bench.rivals.taskiq_app:broker``."""

import os
from typing import Any

import aiohttp
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from ops.bench.rivals.task import HEADERS, AsyncStore, url_of

_IN_FLIGHT = int(os.environ.get("BENCH_IN_FLIGHT", "200"))

#: Streams: with taskiq's plain lists, the tasks of a worker that dies are lost.
broker = RedisStreamBroker(
    os.environ.get("REDIS_URL", "redis://127.0.0.1"), xread_count=_IN_FLIGHT, xread_block=200, approximate=False
)
_mine: dict[str, Any] = {}


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(_: TaskiqState) -> None:
    """Open one session and one store for the process."""
    _mine["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_IN_FLIGHT))
    _mine["store"] = AsyncStore()
    await _mine["store"].open()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(_: TaskiqState) -> None:
    """Close them."""
    await _mine["session"].close()
    await _mine["store"].close()


@broker.task(task_name="fetch")
async def fetch(user_guid: str, member_guid: str) -> None:
    """Ask for one member's window and store it."""
    async with _mine["session"].get(url_of(user_guid, member_guid), headers=HEADERS) as response:
        response.raise_for_status()
        body = await response.read()
    await _mine["store"].store(member_guid, body)
