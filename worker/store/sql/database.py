"""The connection to the database: one engine per process, short transactions, and what its failures mean.

A transaction is never open over a network call. One that fails because the database went away is run again as a whole; it is
a function for that reason.
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

#: How long a transaction is tried again while the database is away: a restart takes seconds; longer is the sweep's business.
RETRY_SECONDS = 15.0

_SQLITE_BUSY_SECONDS = 30

#: libpq's options of TCP: a host that is gone without a word is noticed within a minute, and a statement to it fails. Linux' own defaults are
#: 15 minutes for what was sent, and two hours for an answer that never comes.
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
        # No ping before each transaction: one that meets a dead connection is run again as a whole, see Database.transaction.
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
    """Where the file cannot be opened, wait for the connection's thread: it would answer to an event loop that a command closed."""
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
        # An application may have stored what is no UTF-8: that is one row's matter, and must not fail a statement about many.
        getattr(connection, "driver_connection", connection).text_factory = _replacing
        connection.create_function(READ_MOMENT, 1, read_moment_sqlite, deterministic=True)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_SECONDS * 1000}")
        with suppress(Exception):  # a file that cannot be written says so at the first write, in one line
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _replacing(text: bytes) -> str:
    return str(text, "utf-8", "replace")


def _demand_utf8(engine: Engine) -> None:
    """Refuse a database in another encoding before anything is read from it: of SQL_ASCII the driver makes bytes, not text."""

    @event.listens_for(engine, "connect", insert=True)  # before SQLAlchemy's own first look at the server
    def _connect(connection: Any, _record: object) -> None:
        driver = getattr(connection, "driver_connection", connection)
        encoding = driver.info.parameter_status("server_encoding")
        if encoding not in {None, "UTF8"}:  # a pooler may not say
            raise wrong_encoding(encoding, engine.url)


#: In UTC, so that moments come as ``Moment`` promises them. The scan settings: see :func:`_prepare_postgresql`.
_BEGIN = "BEGIN; SET LOCAL TIME ZONE 'UTC'; SET LOCAL enable_bitmapscan = off"
#: The option of a connection whose statements are transactions of their own.
_APART = "reconnect_apart"


def _prepare_postgresql(engine: Engine) -> None:
    """Every transaction brings its settings along, in the same round trip as its BEGIN, and they end with it.

    A pooler such as PgBouncer lends one server connection to several clients in turn. What is set for a session would then reach
    other clients' statements, and be missing from ours.

    Right after a sweep opened many rows PostgreSQL does not know yet that they are many. A claim reads an index from its front and
    stops; by a bitmap PostgreSQL would fetch all of them, sort them, and take the first few: 90 ms instead of 2 with 100,000 due.

    A plan that PostgreSQL made for a statement while the table was small, and kept, goes through the whole table for each row of a
    batch: 4 s instead of 5 ms with 4,000 due. So no statement is prepared: each is planned anew, for 0.3 ms. (``plan_cache_mode``
    would do that for prepared ones too, and for the check of every foreign key of every row besides: a third of all that a member
    costs PostgreSQL.) A pooler need not know prepared statements either.
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
        #: Transactions that run, or wait for a connection.
        self.in_hand = 0
        #: Called after a commit that wrote events.
        self.on_events: Callable[[], None] = lambda: None
        self._stores: dict[Any, Any] = {}

    def store(self, kind: Callable[..., Store], **given: Hashable) -> Store:
        """The one ``kind(database, **given)``. Its statements are made once a process: making them costs more than a small run."""
        key = (kind, *given.items())
        if key not in self._stores:
            self._stores[key] = kind(self, **given)
        found: Store = self._stores[key]
        return found

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction, write the events of what it did, and commit; again from the start while the database is away.

        Raises :class:`DatabaseUnavailable` when it stays away, :class:`SchemaMismatch` when tables or columns are missing.
        """
        told = False

        async def begun(connection: AsyncConnection) -> T:
            nonlocal told
            if not self.rows.is_sqlite:
                await send(connection, _BEGIN)  # cheaper than by the event, which serves whoever uses the engine itself
            self._outbox.open(connection, are_kept=self.keeps_events)
            result = await work(connection)
            # Also of a commit whose answer was lost: run again, nothing is left to tell.
            told |= self.keeps_events and await self._outbox.write(connection)
            return result

        result = await self._run(self.engine if self.rows.is_sqlite else self._apart, begun)
        if told:
            self.on_events()
        return result

    async def apart(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """As :meth:`transaction`, for reads and for a single write: on PostgreSQL each statement is a transaction of its own.

        That saves the round trips of BEGIN and COMMIT: two of three where a page or a click waits for one statement. The settings of
        :data:`_BEGIN` do not hold: moments may come in another zone than UTC (as the same moment), and bitmaps may be used. What
        tells an event needs a transaction, so it may not be done here.
        """

        async def begun(connection: AsyncConnection) -> T:
            self._outbox.open(connection, are_kept=False)
            return await work(connection)

        return await self._run(self._apart, begun)

    async def _run(self, engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        self.in_hand += 1
        try:
            try:
                return await self._once(engine, work)
            except Exception as error:
                if not passes(error):
                    raise
            # Only now: tenacity's own work costs as much as a short transaction.
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
            self.in_hand -= 1
        raise AssertionError("unreachable")

    @staticmethod
    async def _once(engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with engine.begin() as connection:
            return await work(connection)

    async def close(self) -> None:
        """Return the connections."""
        await self.engine.dispose()
