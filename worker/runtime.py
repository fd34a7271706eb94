"""The resources of one process: its event loop, its database engine, its HTTP session with MX, its channels.

A prefork child creates them once, after the fork. Its event loop runs in a thread, and every task of the child runs on that loop.
Nothing here may be created before the fork: threads, sockets and locks do not survive it.
"""

import asyncio
import gc
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from random import SystemRandom
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import select

from worker.channels.registry import open_channels
from worker.clock import CarriedClock
from worker.delayed_wakes import DelayedWakes
from worker.endpoint import Endpoint
from worker.mx.client import Mx, MxClient
from worker.mx.pacing import Pacing
from worker.settings import Settings
from worker.store.encryption import Vault
from worker.store.sql.database import Database, open_engine
from worker.store.sql.moments import database_now
from worker.task_limits import MAIL_ANSWER_SECONDS

T = TypeVar("T")

#: Puts ``n`` tasks of a stage into its queue; returns how many were put.
Wake = Callable[[str, int], Awaitable[int]]

#: The longest time of one call to MX, with its retries (seconds).
MX_CALL_SECONDS = 45.0

#: New objects after which Python collects reference cycles. Its default of 700 is reached after a few requests, and each collection
#: walks through all live objects: that was a fifth of the time for each member.
GC_AFTER = 10_000

#: How long a cancelled task may take to settle its results and release its leases (seconds).
CANCEL_PATIENCE = 30.0


class Runtime:
    """The parts of one process; bound to one event loop."""

    def __init__(self, settings: Settings, *, wake: Wake, database: Database | None = None) -> None:
        """``database``: replaces the default one, for other limits. Raises :class:`~worker.errors.WorkerError` if a key or a file cannot be used.

        Nothing here connects, so nothing must be closed if a part raises.
        """
        self.settings = settings
        self.wake = wake
        #: Wakes at a later moment, for example for the checks after a click.
        self.delayed_wakes = DelayedWakes(wake)
        self.vault = Vault(settings)
        self.channels = open_channels(settings, data_patience=MAIL_ANSWER_SECONDS)
        self.database = database or Database(open_engine(settings))
        self.database.on_events = lambda: self.delayed_wakes.plan("events", (0,))
        #: How long one call to MX may take (seconds). It ends well before the lease of its row.
        self.mx_deadline = min(MX_CALL_SECONDS, settings.lease_seconds / 2)
        #: The endpoint for events; ``None``: events are off.
        self.endpoint = Endpoint(settings) if settings.events_url is not None else None
        self.pacing = Pacing(settings)
        self.mx: Mx = MxClient(settings, deadline=self.mx_deadline, pacing=self.pacing)
        self.clock = CarriedClock()
        self.rng = SystemRandom()
        self.stopping = asyncio.Event()
        #: Written into the rows that this process leases.
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}"

    def run_ends_at(self) -> float:
        """When a task that begins now claims no more, by :func:`time.monotonic`: after ``RUN_SECONDS``."""
        return monotonic() + self.settings.run_seconds

    async def set_clock(self) -> datetime:
        """Set the clock to the database's time; returns that time."""

        async def ask(connection: Any) -> datetime:
            moment: datetime = await connection.scalar(select(database_now()))
            return moment

        self.clock.set(await self.database.transaction(ask))
        return self.clock.now()

    async def close(self) -> None:
        """Close every connection. An error while closing one is raised after the others are closed."""
        async with AsyncExitStack() as everything:
            everything.push_async_callback(self.database.close)
            everything.push_async_callback(self.delayed_wakes.close)
            everything.push_async_callback(self.pacing.close)
            everything.push_async_callback(self.mx.close)
            if self.endpoint is not None:
                everything.push_async_callback(self.endpoint.close)
            for channel in self.channels.values():
                everything.push_async_callback(channel.close)


class LoopThread:
    """An event loop in a daemon thread, for synchronous code."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="event-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result. If the caller is interrupted (a soft time limit), the coroutine is cancelled and cleans up."""
        tidied_up = threading.Event()

        async def job() -> T:
            try:
                return await coroutine
            finally:
                tidied_up.set()

        future = asyncio.run_coroutine_threadsafe(job(), self.loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                tidied_up.wait(CANCEL_PATIENCE)
            raise

    def close(self) -> None:
        """Cancel what still runs, stop the loop, join the thread and close the file descriptors."""
        with suppress(TimeoutError):
            future = asyncio.run_coroutine_threadsafe(self._tidy_up(), self.loop)
            future.result(CANCEL_PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():  # closing a running loop raises RuntimeError
            self.loop.close()

    async def _tidy_up(self) -> None:
        """Cancel every task and shut the loop down, as :func:`asyncio.run` does."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


class ProcessRuntime:
    """The runtime of this process, created at its first use, after the fork."""

    def __init__(self, settings: Settings, *, wake: Wake) -> None:
        gc.collect()
        gc.freeze()  # modules and classes are never garbage, so the collector need not walk through them
        gc.set_threshold(GC_AFTER, 20, 20)
        self._threads = LoopThread()
        try:
            self.runtime = self._threads.run(self._open(settings, wake))
        except BaseException:
            self._threads.close()
            raise

    async def _open(self, settings: Settings, wake: Wake) -> Runtime:
        return Runtime(settings, wake=wake)

    def run(self, job: Callable[[Runtime], Coroutine[Any, Any, T]]) -> T:
        """Run a job on the process's event loop and return its result."""
        return self._threads.run(job(self.runtime))

    def stop_when_readable(self, descriptor: int) -> None:
        """Ask the running stage to stop as soon as this end of a pipe becomes readable."""
        loop = self._threads.loop

        def stop() -> None:
            loop.remove_reader(descriptor)
            self.runtime.stopping.set()

        loop.call_soon_threadsafe(loop.add_reader, descriptor, stop)

    def close(self) -> None:
        """Close every connection, then the event loop."""
        try:
            with suppress(Exception):
                self._threads.run(self.runtime.close())
        finally:
            self._threads.close()
