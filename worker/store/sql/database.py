"""The connection to the database: one engine per process, and short transactions.

A transaction is never open during a network call. If it fails because the database is away, it is run again as a whole. That is why it is
passed as a function.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any, TypeVar

import aiosqlite
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_delay, wait_random_exponential

from worker.errors import DatabaseUnavailable
from worker.settings import Settings
from worker.store.events.recording import Outbox
from worker.store.sql.database_errors import as_worker_error, passes, wrong_encoding
from worker.store.sql.fast_statements import send
from worker.store.sql.moments import READ_MOMENT, read_moment_sqlite
from worker.store.sql.rows import rows_of

T = TypeVar("T")
Store = TypeVar("Store")

#: How long a transaction is retried while the database is away. A restart takes seconds; after a longer absence a sweep recovers the work.
RETRY_SECONDS = 15.0

_SQLITE_BUSY_SECONDS = 30

#: libpq's TCP options: if a host disappears silently, this is noticed within a minute, and the statement fails. Linux's defaults are 15
#: minutes for data that was sent, and two hours for an answer that never comes.
_TCP = {"tcp_user_timeout": 30_000, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


def database_url(settings: Settings) -> URL:
    """The URL with the driver that this worker uses: psycopg for PostgreSQL, aiosqlite for SQLite."""
    url = make_url(settings.database_url.get_secret_value())
    return url.set(drivername="sqlite+aiosqlite" if url.drivername.startswith("sqlite") else "postgresql+psycopg")


def open_engine(settings: Settings, *, pool_size: int = 5) -> AsyncEngine:
    """An engine for the running loop. Parameters stay out of its errors: they hold addresses and encrypted URIs."""
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(
            url,
            hide_parameters=True,
            connect_args={"timeout": _SQLITE_BUSY_SECONDS, "async_creator_fn": _connect_sqlite},
        )
        _prepare_sqlite(engine.sync_engine)
        return _with_events(engine, settings)
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        # No ping before each transaction: on a dead connection the transaction is run again as a whole, see Database.transaction.
        connect_args={
            **{name: value for name, value in _TCP.items() if name not in url.query},
            "connect_timeout": 5,
            "client_encoding": "utf8",  # whatever PGCLIENTENCODING or the role's own setting says
            "application_name": "reconnection-worker",
            "autocommit": True,  # BEGIN is ours, see below
            "prepare_threshold": None,  # see below
        },
    )
    _demand_utf8(engine.sync_engine)
    _prepare_postgresql(engine.sync_engine)
    return _with_events(engine, settings)


#: The option of an engine whose transactions write events.
_EVENTS = "reconnect_events"


def _with_events(engine: AsyncEngine, settings: Settings) -> AsyncEngine:
    engine.sync_engine.update_execution_options(**{_EVENTS: settings.events_url is not None})
    return engine


def open_sync_engine(settings: Settings) -> Engine:
    """An engine without a loop, for migrations."""
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True)
        _prepare_sqlite(engine)
        return engine
    engine = create_engine(url, hide_parameters=True, connect_args={"connect_timeout": 5, "client_encoding": "utf8"})
    _demand_utf8(engine)
    return engine


async def _connect_sqlite(*args: Any, **options: Any) -> aiosqlite.Connection:
    """If the file cannot be opened, wait for the connection's thread. Otherwise it might answer to an event loop that is closed already."""
    connection = aiosqlite.connect(*args, **options)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy's own creator does
    try:
        return await connection
    except Exception:
        await asyncio.to_thread(connection._thread.join, 5)  # noqa: SLF001
        raise


def _prepare_sqlite(engine: Engine) -> None:
    """WAL, so that readers do not wait; BEGIN IMMEDIATE, since a deferred BEGIN that turns into a write fails under load."""

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        # An application may have stored text that is not UTF-8. It must not make a statement about many rows fail.
        getattr(connection, "driver_connection", connection).text_factory = _replacing
        connection.create_function(READ_MOMENT, 1, read_moment_sqlite, deterministic=True)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_SECONDS * 1000}")
        with suppress(Exception):  # a file that cannot be written is reported at the first write, in one line
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _replacing(text: bytes) -> str:
    return str(text, "utf-8", "replace")


def _demand_utf8(engine: Engine) -> None:
    """Refuse a database in another encoding before anything is read from it: with SQL_ASCII the driver returns bytes, not text."""

    @event.listens_for(engine, "connect", insert=True)  # before SQLAlchemy's own first queries to the server
    def _connect(connection: Any, _record: object) -> None:
        driver = getattr(connection, "driver_connection", connection)
        encoding = driver.info.parameter_status("server_encoding")
        if encoding not in {None, "UTF8"}:  # a pooler may not report it
            raise wrong_encoding(encoding, engine.url)


#: In UTC, as ``Moment`` expects the moments. The scan settings: see :func:`_prepare_postgresql`.
_BEGIN = "BEGIN; SET LOCAL TIME ZONE 'UTC'; SET LOCAL enable_bitmapscan = off"
#: The option of a connection whose statements are transactions of their own.
_APART = "reconnect_apart"


def _prepare_postgresql(engine: Engine) -> None:
    """Make every transaction send its settings in the same round trip as BEGIN. They end with the transaction.

    A pooler such as PgBouncer lends one server connection to several clients in turn. So session settings would affect other clients'
    statements, and be missing for ours.

    **No bitmap scans.** Right after a sweep opened many rows, the statistics do not show them yet. A claim reads an index from its front and
    stops. With a bitmap PostgreSQL would fetch all rows, sort them and take the first few: 90 ms instead of 2 with 100,000 due.

    **No prepared statements.** A plan that PostgreSQL made and kept while the table was small reads the whole table for each row of a batch:
    4 s instead of 5 ms with 4,000 due. So each statement is planned again, which takes 0.3 ms. (``plan_cache_mode`` would do the same for
    prepared statements, but also for each check of a foreign key: a third of PostgreSQL's whole cost of a member.) Also, a pooler need not
    support prepared statements.
    """

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        if not connection.get_execution_options().get(_APART):
            connection.exec_driver_sql(_BEGIN)


class Database:
    """Runs transactions."""

    def __init__(self, engine: AsyncEngine, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self.engine = engine
        self._apart = engine.execution_options(**{_APART: True})
        self._retry_seconds = retry_seconds
        self.rows = rows_of(is_sqlite=engine.dialect.name == "sqlite")
        self._outbox = self.rows.part(Outbox)
        #: Whether transactions write events.
        self.keeps_events = bool(engine.get_execution_options().get(_EVENTS))
        #: The number of transactions that run or wait for a connection.
        self.transactions_under_way = 0
        #: Called after a commit that wrote events.
        self.on_events: Callable[[], None] = lambda: None
        self._stores: dict[Any, Any] = {}

    def store(self, kind: Callable[..., Store], **arguments: Hashable) -> Store:
        """``kind(database, **given)``, made only once per process: making its statements costs more than running them a few times."""
        key = (kind, *arguments.items())
        if key not in self._stores:
            self._stores[key] = kind(self, **arguments)
        store: Store = self._stores[key]
        return store

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction, write its events, and commit. While the database is away, all of it is repeated.

        Raises :class:`DatabaseUnavailable` if it stays away, :class:`SchemaMismatch` if tables or columns are missing.
        """
        wrote_events = False

        async def begun(connection: AsyncConnection) -> T:
            nonlocal wrote_events
            if not self.rows.is_sqlite:
                await send(connection, _BEGIN)  # cheaper than by the event, which serves other users of the engine
            self._outbox.open(connection, are_kept=self.keeps_events)
            result = await work(connection)
            # `wrote_events` stays true if the answer to a commit was lost: the second run then has no events to write.
            wrote_events |= self.keeps_events and await self._outbox.write(connection)
            return result

        result = await self._run(self.engine if self.rows.is_sqlite else self._apart, begun)
        if wrote_events:
            self.on_events()
        return result

    async def apart(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """As :meth:`transaction`, for reads and for a single write: on PostgreSQL each statement is a transaction of its own.

        That saves the round trips of BEGIN and COMMIT, two of three if a page or a click waits for one statement. The settings of
        :data:`_BEGIN` do not apply: moments may come in another zone than UTC (as the same moment), and bitmaps may be used. A write that
        causes an event needs a transaction, so it must not be made here.
        """

        async def begun(connection: AsyncConnection) -> T:
            self._outbox.open(connection, are_kept=False)
            return await work(connection)

        return await self._run(self._apart, begun)

    async def _run(self, engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        self.transactions_under_way += 1
        try:
            try:
                return await self._once(engine, work)
            except Exception as error:
                if not passes(error):
                    raise
            # Only after a failure, since tenacity's own work costs as much as a short transaction.
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(passes),
                stop=stop_after_delay(self._retry_seconds),
                wait=wait_random_exponential(multiplier=0.1, max=2),
            ):
                with attempt:
                    return await self._once(engine, work)
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise as_worker_error(cause, self.engine.url) from None
        except PoolTimeout:
            raise DatabaseUnavailable(
                "database: all connections of this process have been in use for too long"
            ) from None
        except (DBAPIError, OSError) as error:
            raise as_worker_error(error, self.engine.url) from None
        finally:
            self.transactions_under_way -= 1
        raise AssertionError("unreachable")

    @staticmethod
    async def _once(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with engine.begin() as connection:
            return await work(connection)

    async def close(self) -> None:
        """Return the connections."""
        await self.engine.dispose()
