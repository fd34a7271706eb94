"""The connections of one process to the mail server.

A connection carries one mail at a time, and a mail takes four round trips, so throughput grows with the number of connections.
A connection is opened when a mail needs it, reused, and closed after 30 seconds without work. Servers close idle connections
after five minutes (RFC 5321, 4.5.3.2.7). At most ``size`` are open, including those that are closing.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.channels.email.backoff import Backoff
from worker.channels.email.connection import Connection, Unconnected, connect
from worker.settings.values import SmtpServer

#: Seconds without work after which a connection is closed.
IDLE_SECONDS = 30.0
#: Mails after which a connection is replaced. Servers limit the mails of a connection and answer 421 to the next one.
MAILS_PER_CONNECTION = 100
#: The first and the longest pause, in seconds, after a 421 or 454 or a failed connection. The longest is no longer than the time
#: between two probes of the breaker; during a longer pause the probe would not reach the server.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0


class Pool:
    """Opens nothing before its first use, and belongs to the event loop of that use."""

    def __init__(
        self,
        server: SmtpServer,
        *,
        size: int,
        hello_name: str,
        command_patience: float,
        tls_context: ssl.SSLContext | None = None,
        idle_seconds: float = IDLE_SECONDS,
        mails_per_connection: int = MAILS_PER_CONNECTION,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._server = server
        self._hello_name = hello_name
        self._command_patience = command_patience
        self._tls_context = tls_context
        self._idle_seconds = idle_seconds
        self._mails_per_connection = mails_per_connection
        self.backoff = Backoff(first=first_pause, longest=LONGEST_PAUSE, clock=_now)
        self._slots = asyncio.Semaphore(size)
        #: Oldest first. The newest is used first, so connections that are not needed reach their idle limit.
        self._idle: deque[Connection] = deque()
        self._reaper: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for one mail, as soon as one is free. Raises :class:`Unconnected`, also during a pause."""
        async with self._slots:
            if paused := self.backoff.paused():
                raise Unconnected(paused)
            connection = self._take_idle() or await self._open()
            try:
                yield connection
            finally:
                await self._release(connection)

    async def open(self) -> Connection:
        """A connection outside the pool; the caller closes it."""
        if self._tls_context is None and self._server.tls != "none":
            self._tls_context = ssl.create_default_context()
        return await connect(
            self._server,
            tls_context=self._tls_context,
            hello_name=self._hello_name,
            patience=self._command_patience,
        )

    async def close(self) -> None:
        """Close idle connections. The others close when their mail is finished."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.wait([self._reaper])
        await asyncio.gather(*(connection.quit() for connection in self._idle))
        self._idle.clear()
        await asyncio.sleep(0)  # transports finish closing in the loop's next iteration

    async def _open(self) -> Connection:
        try:
            return await self.open()
        except Unconnected as error:
            raise Unconnected(self.backoff.note(error.outcome)) from None

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _release(self, connection: Connection) -> None:
        connection.carried += 1
        if not connection.usable:
            connection.abort()
        elif self._closed or connection.carried >= self._mails_per_connection:
            await connection.quit()
        else:
            connection.idle_since = _now()
            self._idle.append(connection)
            if self._reaper is None or self._reaper.done():
                self._reaper = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        """Close connections that reach their idle limit, until none is left."""
        while self._idle:
            age = _now() - self._idle[0].idle_since
            if age < self._idle_seconds:
                await asyncio.sleep(self._idle_seconds - age)
                continue
            async with self._slots:  # a closing connection counts as open, so it needs a slot
                if self._idle and _now() - self._idle[0].idle_since >= self._idle_seconds:
                    await self._idle.popleft().quit()


def _now() -> float:
    return asyncio.get_running_loop().time()
