"""arq with one job for each member, which asks with aiohttp: ``arq ops.bench.rivals.arq_app.WorkerSettings``."""

import os
from typing import Any, ClassVar

import aiohttp
from arq.connections import RedisSettings

from ops.bench.rivals.task import HEADERS, AsyncStore, url_of

_IN_FLIGHT = int(os.environ.get("BENCH_IN_FLIGHT", "200"))

#: By default arq logs two lines a job, which would take a good part of its time.
QUIET = {"version": 1, "disable_existing_loggers": True, "root": {"level": "WARNING"}}


async def fetch(context: dict[str, Any], user_guid: str, member_guid: str) -> None:
    """Ask for one member's window and store it."""
    async with context["session"].get(url_of(user_guid, member_guid), headers=HEADERS) as response:
        response.raise_for_status()
        body = await response.read()
    await context["store"].store(member_guid, body)


async def startup(context: dict[str, Any]) -> None:
    """Open one session and one store for the process."""
    context["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_IN_FLIGHT))
    context["store"] = AsyncStore()
    await context["store"].open()


async def shutdown(context: dict[str, Any]) -> None:
    """Close them."""
    await context["session"].close()
    await context["store"].close()


class WorkerSettings:
    """The settings that arq's command reads."""

    functions: ClassVar = [fetch]
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://127.0.0.1"))
    max_jobs = _IN_FLIGHT
    keep_result = 0
    # With the default of half a second, only that delay would be measured.
    poll_delay = 0.05
