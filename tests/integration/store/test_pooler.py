"""A pooler lends one session of PostgreSQL to several clients in turn. We may leave no setting in it, and rely on none."""

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text

from tests.conftest import make_settings
from worker.errors import DatabaseUnavailable
from worker.store.pauses import PauseStore
from worker.store.sql.database import Database, open_engine
from worker.store.sql.moments import database_now

_SETTINGS = "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name'"
_NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def _session(database: Database) -> Any:
    """The driver's connection between two of our transactions: the state that the pooler's next client gets."""
    async with database.engine.connect() as connection:
        return (await connection.get_raw_connection()).driver_connection


@pytest.fixture
async def database(postgres: Any) -> Any:
    """A database with one session, in which another client left its settings."""
    database = Database(open_engine(make_settings(database_url=postgres.database()), pool_size=1))
    other = await _session(database)
    await other.execute("SET TIME ZONE 'Asia/Kolkata'; SET DateStyle = 'ISO, DMY'")
    yield database
    await database.close()


async def test_no_setting_of_ours_outlives_its_transaction(database: Database) -> None:
    other = await _session(database)
    before = dict(await (await other.execute(_SETTINGS)).fetchall())

    async def work(connection: Any) -> tuple[Any, Any, Any]:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        return pid, *[await connection.scalar(text(f"SHOW {name}")) for name in ("enable_bitmapscan", "timezone")]

    async def fails(connection: Any) -> None:
        await connection.execute(text("SELECT 1 / 0"))

    assert await database.transaction(work) == (other.info.backend_pid, "off", "UTC")
    with pytest.raises(DatabaseUnavailable):
        await database.transaction(fails)
    assert other.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert dict(await (await other.execute(_SETTINGS)).fetchall()) == before
    assert (await (await other.execute("SHOW enable_bitmapscan")).fetchone())[0] == "on"
    assert (await (await other.execute("SELECT count(*) FROM pg_prepared_statements")).fetchone())[0] == 0


async def test_moments_are_right_whatever_the_session_is_set_to(database: Database) -> None:
    pauses = PauseStore(database)
    await pauses.set("everything", "a test", now=_NOW)
    (pause,) = await pauses.all()
    assert (pause.since, pause.since.utcoffset()) == (_NOW, UTC.utcoffset(None))

    async def ask(connection: Any) -> datetime:
        moment: datetime = await connection.scalar(select(database_now()))
        return moment

    assert (await database.transaction(ask)).utcoffset() == UTC.utcoffset(None)
