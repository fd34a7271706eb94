"""`reconnect web`: one process that serves the links, until SIGTERM.

Several may run side by side: they share the port (``SO_REUSEPORT``). The process starts even if the database or Redis is away. Without
the database it serves "try again" pages. Without Redis it serves all pages, and counts limits alone.
"""

import asyncio
import gc
import resource
import signal
from contextlib import suppress

import structlog
from aiohttp import web

from worker.errors import WorkerError
from worker.runtime import GC_AFTER, Runtime, Wake
from worker.settings import Settings
from worker.store.queries.link_page import LinkPageStore
from worker.store.sql.database import Database, open_engine
from worker.store.transactions.click import ClickStore
from worker.web.app import make_app
from worker.web.protocol import HEADER_SECONDS, Runner

log = structlog.get_logger()

#: Seconds that running requests may take after SIGTERM: MX has 10 for a press, the database the rest.
GRACE = 14.0
#: Seconds that closing everything may take after that.
_CLOSE_WITHIN = 3.0
#: Seconds between two readings of the database's clock.
CLOCK_EVERY = 30.0
#: Seconds for which a transaction is retried while the database is away. A customer waits for it.
_DATABASE_PATIENCE = 2.0
#: Connections to the database.
_POOL = 10
#: Connections that wait to be accepted.
_BACKLOG = 1024
#: Open files and sockets. If MX takes 10 s to answer, 200 clicks a second are 2,000 connections, and many shells allow 1,024.
_OPEN_FILES = 16_384


async def serve(settings: Settings, *, wake: Wake) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises :class:`WorkerError` if it cannot listen on ``WEB_LISTEN``."""
    runtime = Runtime(settings, wake=wake, database=_database(settings))
    stop_wanted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_wanted.set)
    https = (settings.public_base_url or "").lower().startswith("https:")
    try:
        allow_many_connections()
        runner = Runner(make_app(runtime), https=https, shutdown_timeout=GRACE, header_seconds=HEADER_SECONDS)
        await runner.setup()
        try:
            _warm_up(runtime)
            await _listen(runner, settings.web_listen)
            log.info("web_ready", listen=settings.web_listen)
            await _keep_clock(runtime, until=stop_wanted)
            log.info("web_stopping")
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(runner.cleanup(), GRACE + _CLOSE_WITHIN)
    finally:
        runtime.stopping.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(runtime.close(), _CLOSE_WITHIN)


def _warm_up(runtime: Runtime) -> None:
    """Build the statements, and collect garbage once, before the first customer comes: each takes tens of milliseconds."""
    for store in (LinkPageStore, ClickStore):
        runtime.database.store(store)
    gc.collect()
    gc.freeze()  # as in a worker's child: see worker.runtime
    gc.set_threshold(GC_AFTER, 20, 20)


def _database(settings: Settings) -> Database:
    return Database(open_engine(settings, pool_size=_POOL), retry_seconds=_DATABASE_PATIENCE)


def allow_many_connections() -> None:
    """Raise this process's limit of open files as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _listen(runner: Runner, listen: str) -> None:
    host, _, port = listen.rpartition(":")
    try:
        site = web.TCPSite(runner, host.strip("[]") or None, int(port), reuse_port=True, backlog=_BACKLOG)
        await site.start()
    except OSError as error:
        raise WorkerError(
            f"web: cannot listen on {listen}: {error.strerror or type(error).__name__}; see WEB_LISTEN"
        ) from None


async def _keep_clock(runtime: Runtime, *, until: asyncio.Event) -> None:
    """Set the clock to the database's every :data:`CLOCK_EVERY`. Otherwise it would drift in a process that runs for weeks."""
    ended = asyncio.create_task(until.wait())
    while not ended.done():
        reading = asyncio.create_task(runtime.set_clock())
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await asyncio.wait({reading}, timeout=_CLOSE_WITHIN)  # else SQLite's thread would outlive the loop
            reading.cancel()
        elif isinstance(error := reading.exception(), WorkerError):
            log.warning("clock_not_set", why=str(error))
        elif error is not None:
            log.error("clock_not_set", exc_info=error)
        await asyncio.wait({ended}, timeout=CLOCK_EVERY)
