"""The connection to the database: one engine per process, short transactions, and what its failures mean.

A transaction is never open over a network call. One that fails because the database went away is run again as a whole; it is
a function for that reason.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_delay, wait_random_exponential

from worker.errors import DatabaseUnavailable, SchemaMismatch
from worker.settings import Settings
from worker.store.rows import Rows

T = TypeVar("T")
Store = TypeVar("Store")

#: How long a transaction is tried again while the database is away: a restart takes seconds; longer is the sweep's business.
RETRY_SECONDS = 15.0

_SQLITE_BUSY_SECONDS = 30


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
        return engine
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        # No ping before each transaction: one that meets a dead connection is run again as a whole, see Database.transaction.
        connect_args={
            "connect_timeout": 5,
            "application_name": "reconnection-worker",
            "autocommit": True,  # BEGIN is ours, see below
            "prepare_threshold": None,  # see below
        },
    )
    _prepare_postgresql(engine.sync_engine)
    return engine


def open_sync_engine(settings: Settings) -> Engine:
    """An engine without a loop, for migrations."""
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True)
        _prepare_sqlite(engine)
        return engine
    return create_engine(url, hide_parameters=True, connect_args={"connect_timeout": 5})


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
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_SECONDS * 1000}")
        with suppress(Exception):  # a file that cannot be written says so at the first write, in one line
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


#: In UTC, so that moments come as ``Moment`` promises them. The scan settings: see :func:`_prepare_postgresql`.
_BEGIN = "BEGIN; SET LOCAL TIME ZONE 'UTC'; SET LOCAL enable_bitmapscan = off"


def _prepare_postgresql(engine: Engine) -> None:
    """Every transaction brings its settings along, in the same round trip as its BEGIN, and they end with it.

    A pooler such as PgBouncer lends one server connection to several clients in turn. What is set for a session would then reach
    other people's statements, and be missing from ours.

    Right after a sweep opened many rows PostgreSQL does not know yet that they are many. A claim reads an index from its front and
    stops; by a bitmap PostgreSQL would fetch all of them, sort them, and take the first few: 90 ms instead of 2 with 100,000 due.

    A plan that PostgreSQL made for a statement while the table was small, and kept, goes through the whole table for each row of a
    batch: 4 s instead of 5 ms with 4,000 due. So no statement is prepared: each is planned anew, for 0.3 ms. (``plan_cache_mode``
    would do that for prepared ones too, and for the check of every foreign key of every row besides: a third of all that a member
    costs PostgreSQL.) A pooler need not know prepared statements either.
    """

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(_BEGIN)


class Database:
    """Runs transactions."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.rows = Rows(is_sqlite=engine.dialect.name == "sqlite")
        self._stores: dict[Any, Any] = {}

    def store(self, kind: Callable[["Database"], Store]) -> Store:
        """The one store of this kind. Its statements are made once a process: making them costs more than a small shift."""
        if kind not in self._stores:
            self._stores[kind] = kind(self)
        found: Store = self._stores[kind]
        return found

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction and commit it; again from the start while the database is away.

        Raises :class:`DatabaseUnavailable` when it stays away, :class:`SchemaMismatch` when tables or columns are missing.
        """
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_is_away),
                stop=stop_after_delay(RETRY_SECONDS),
                wait=wait_random_exponential(multiplier=0.1, max=2),
            ):
                with attempt:
                    async with self.engine.begin() as connection:
                        return await work(connection)
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise DatabaseUnavailable(describe(cause, self.engine.url)) from None
        except (DBAPIError, OSError) as error:
            raise as_worker_error(error, self.engine.url) from None
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Return the connections."""
        await self.engine.dispose()


def as_worker_error(error: BaseException, url: URL) -> DatabaseUnavailable | SchemaMismatch:
    """What a failure of the database means, in one line without parameters."""
    text = str(getattr(error, "orig", error)).lower()
    if (
        (isinstance(error, ProgrammingError) and "does not exist" in text)
        or "no such table" in text
        or "no such column" in text
    ):
        return SchemaMismatch("the database's schema is not this version's: run `reconnect migrate`")
    return DatabaseUnavailable(describe(error, url))


def describe(error: BaseException | None, url: URL) -> str:
    """One line that names the database and what is wrong with it, without its password or a statement's parameters."""
    where = (
        f"SQLite file {Path(url.database).name}"
        if url.get_backend_name() == "sqlite" and url.database
        else "PostgreSQL"
    )
    if where == "PostgreSQL":
        where = f"PostgreSQL at {url.host or url.query.get('host') or 'its socket'}"
    text = str(getattr(error, "orig", error) or "").strip().lower()
    for sign, meaning in _MEANINGS.items():
        if sign in text:
            return f"database: {where}: {meaning}"
    return (
        f"database: {where}: {type(getattr(error, 'orig', error)).__name__}; see that it runs and DATABASE_URL is right"
    )


_MEANINGS = {
    "readonly": "it is read-only; give this user the right to write the file and its folder",
    "read-only": "it is read-only; point DATABASE_URL at the primary",
    "disk is full": "the disk is full; nothing was half written, make room and run again",
    "disk i/o error": "the disk cannot be written; nothing was half written, see to the disk and run again",
    "no space left": "the disk is full; nothing was half written, make room and run again",
    "unable to open": "the file cannot be opened; see that its folder exists and may be written",
    "file is not a database": "the file is no SQLite database; see DATABASE_URL",
    "locked": "another process holds it for too long",
    "password authentication failed": "user or password refused; see DATABASE_URL",
    "alter type of a column": "a view, trigger or policy of yours uses a column that changes; drop it, migrate, and make it again",
    "already exists": "a table of ours is there already and is not ours; give this worker a schema or database of its own",
    "does not exist": "the database or role does not exist; see DATABASE_URL",
    "connection refused": "nobody listens there; start it or see DATABASE_URL",
    "timeout": "it does not answer",
    "resolve": "its host name is unknown; see DATABASE_URL",
}


def _is_away(error: BaseException) -> bool:
    """Whether it may be back in a moment: a restart, a dropped connection, a deadlock's victim; not a full or read-only disk."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, OperationalError | InterfaceError):
        text = str(error.orig).lower()
        return not any(
            sign in text
            for sign in (
                "readonly",
                "read-only",
                "full",
                "disk i/o",
                "unable to open",
                "no such table",  # not the "no such file" of a server's socket that is not there for a moment
                "no such column",
                "not a database",
                "authentication",
                "does not exist",
                "no space",
            )
        )
    return isinstance(error, ConnectionError | asyncio.TimeoutError)
