"""The connections of one process to the mail server.

One connection carries one mail at a time, and a mail is four round trips: throughput is the number of connections. They are
opened as they are needed, kept while there is work, and closed after a while without any, well before the server's own limit
(five minutes, RFC 5321, 4.5.3.2.7). Never more than ``size`` are open, those that are saying goodbye included.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.channels.email.brake import Brake
from worker.channels.email.connection import Connection, Unconnected, connect
from worker.settings.values import SmtpServer

#: Seconds without work after which a connection is closed.
IDLE_SECONDS = 30.0
#: Mails after which a connection is replaced: servers set limits of their own and answer 421 when they are reached.
MAILS_PER_CONNECTION = 100
#: The first pause, in seconds, when the server says 421 or 454 or cannot be reached, and the longest one: no longer than the time
#: between two probes of the breaker, so that a probe reaches the server.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0


class Pool:
    """Belongs to the loop that it is first used on; opens nothing before that."""

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
        self.brake = Brake(first=first_pause, longest=LONGEST_PAUSE, clock=_now)
        self._slots = asyncio.Semaphore(size)
        #: Oldest first. The newest is used first, so that those that are too many grow old.
        self._idle: deque[Connection] = deque()
        self._reaper: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for one mail, as soon as one is free; raises :class:`Unconnected`, also while the brake holds."""
        async with self._slots:
            if held := self.brake.holds():
                raise Unconnected(held)
            connection = self._take_idle() or await self._open()
            try:
                yield connection
            finally:
                await self._put_back(connection)

    async def open(self) -> Connection:
        """A connection of the caller's own, outside the pool."""
        if self._tls_context is None and self._server.tls != "none":
            self._tls_context = ssl.create_default_context()
        return await connect(
            self._server,
            tls_context=self._tls_context,
            hello_name=self._hello_name,
            patience=self._command_patience,
        )

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when its mail is done."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.wait([self._reaper])
        await asyncio.gather(*(connection.quit() for connection in self._idle))
        self._idle.clear()
        await asyncio.sleep(0)  # transports say that they are closed on the loop's next turn

    async def _open(self) -> Connection:
        try:
            return await self.open()
        except Unconnected as error:
            raise Unconnected(self.brake.note(error.outcome)) from None

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _put_back(self, connection: Connection) -> None:
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
        """Close connections as they grow old, until there are none."""
        while self._idle:
            age = _now() - self._idle[0].idle_since
            if age < self._idle_seconds:
                await asyncio.sleep(self._idle_seconds - age)
                continue
            async with self._slots:  # it counts as open until it is closed
                if self._idle and _now() - self._idle[0].idle_since >= self._idle_seconds:
                    await self._idle.popleft().quit()


def _now() -> float:
    return asyncio.get_running_loop().time()
