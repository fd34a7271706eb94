"""The work of each rival for one member, blocking and asynchronous."""

import asyncio
import json
import os
import queue
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from cryptography.fernet import Fernet

DATABASE_URL = os.environ.get("DATABASE_URL", "")
MX_URL = os.environ.get("MX_BASE_URL", "")
HEADERS = {"Accept": "application/vnd.mx.atrium.v1+json", "MX-API-Key": "bench-key", "MX-Client-ID": "bench-client"}
#: Connections to the database that one process may hold.
CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "20"))

SCHEMA = """
CREATE TABLE IF NOT EXISTS rival_windows (member_guid text PRIMARY KEY, uri text NOT NULL, fetched_at timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS rival_notifications (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, member_guid text NOT NULL UNIQUE, state text NOT NULL
);
"""
_STORE = """
WITH stored AS (
    INSERT INTO rival_windows (member_guid, uri, fetched_at) VALUES (%s, %s, now())
    ON CONFLICT (member_guid) DO UPDATE SET uri = excluded.uri, fetched_at = excluded.fetched_at RETURNING member_guid
)
INSERT INTO rival_notifications (member_guid, state) SELECT member_guid, 'pending' FROM stored ON CONFLICT DO NOTHING
"""

_fernet = Fernet(os.environ.get("URI_KEYS") or Fernet.generate_key())


def url_of(user_guid: str, member_guid: str) -> str:
    """The URL that gives a member's window."""
    return f"{MX_URL}/users/{user_guid}/members/{member_guid}/oauth_window_uri"


def row_of(member_guid: str, body: bytes) -> tuple[str, str]:
    """The values to store from an answer."""
    uri = json.loads(body)["member"]["oauth_window_uri"]
    return member_guid, _fernet.encrypt(uri.encode()).decode()


class BlockingStore:
    """A pool of connections for threads or greenlets. They are opened at the first use, so after any fork."""

    def __init__(self) -> None:
        self._free: queue.LifoQueue[psycopg.Connection | None] = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self._free.put(None)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        connection = self._free.get()
        try:
            if connection is None:
                connection = psycopg.connect(DATABASE_URL, autocommit=True)
            yield connection
        finally:
            self._free.put(connection)

    def store(self, member_guid: str, body: bytes) -> None:
        """One statement, one commit."""
        row = row_of(member_guid, body)
        with self._connection() as connection:
            connection.execute(_STORE, row)


class AsyncStore:
    """The same for an event loop."""

    def __init__(self) -> None:
        self._free: asyncio.LifoQueue[psycopg.AsyncConnection] = asyncio.LifoQueue()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["AsyncStore"]:
        """A store that is connected for as long as the block lasts."""
        await self.open()
        try:
            yield self
        finally:
            await self.close()

    async def open(self) -> None:
        """Connect."""
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await psycopg.AsyncConnection.connect(DATABASE_URL, autocommit=True))

    async def close(self) -> None:
        """Disconnect."""
        while not self._free.empty():
            await self._free.get_nowait().close()

    async def store(self, member_guid: str, body: bytes) -> None:
        """One statement, one commit."""
        row = row_of(member_guid, body)
        connection = await self._free.get()
        try:
            await connection.execute(_STORE, row)
        finally:
            self._free.put_nowait(connection)
