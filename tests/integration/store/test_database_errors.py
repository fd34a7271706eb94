"""Every fault of the database becomes one line that names it, tells what to do, and contains no value or password."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Postgres, make_settings
from worker.errors import DatabaseUnavailable, SchemaMismatch, WorkerError
from worker.store.sql import database, schema
from worker.store.sql.database import Database, open_engine

ENCODINGS = ("SQL_ASCII", "LATIN1")


def line_of(action: Any, url: str) -> str:
    with pytest.raises(WorkerError) as caught:
        action(make_settings(database_url=url))
    assert isinstance(caught.value, DatabaseUnavailable | SchemaMismatch)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    line = str(caught.value)
    assert line.isprintable()
    assert "s3cr3t" not in line
    return line


@pytest.fixture
def server(postgres: Postgres) -> Iterator[dict[str, str]]:
    """URLs of databases and roles, each with a fault."""
    uri, mark = postgres.uri, f"t{os.getpid()}"
    with psycopg.connect(uri, autocommit=True) as admin:
        for encoding in ENCODINGS:
            admin.execute(
                f"CREATE DATABASE {mark}_{encoding} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"  # type: ignore[arg-type]
            )
        for role in ("plain LOGIN", "full LOGIN CONNECTION LIMIT 0", "nologin NOLOGIN"):
            admin.execute(f"CREATE ROLE {mark}_{role}")  # type: ignore[arg-type]
    migrated = postgres.database()
    yield {
        **{encoding: uri.replace("/postgres?", f"/{mark}_{encoding.lower()}?") for encoding in ENCODINGS},
        "uri": uri,
        "migrated": migrated,
        **{
            name: uri.replace("postgres:@", f"{mark}_{name}:s3cr3t@") for name in ("plain", "full", "nologin", "nobody")
        },
        "unprivileged": migrated.replace("postgres:@", f"{mark}_plain:s3cr3t@"),
    }
    with psycopg.connect(uri, autocommit=True) as admin:
        for encoding in ENCODINGS:
            admin.execute(f"DROP DATABASE {mark}_{encoding}")  # type: ignore[arg-type]
        for role in ("plain", "full", "nologin"):
            admin.execute(f"DROP ROLE {mark}_{role}")  # type: ignore[arg-type]


def test_what_is_wrong_with_postgresql_is_named_with_what_to_do(server: dict[str, str]) -> None:
    uri = server["uri"]
    for url, says in {
        server[
            "SQL_ASCII"
        ]: "its encoding is SQL_ASCII and has to be UTF8, or names outside it are lost: CREATE DATABASE",
        server["LATIN1"]: "its encoding is LATIN1 and has to be UTF8",
        server["plain"]: "this role lacks a right. To migrate it needs GRANT USAGE, CREATE ON SCHEMA",
        server["full"]: "it has no connection left",
        server["nologin"]: "this role may not log in",
        server["nobody"]: "the role does not exist",
        uri.replace("/postgres?", "/nosuch?"): "the database does not exist; create it",
        uri + "&options=-csearch_path%3Dnosuch": "no schema of its search_path exists; CREATE SCHEMA",
        uri + "&options=-cdefault_transaction_read_only%3Don": "it is read-only, as a replica is",
    }.items():
        assert says in line_of(schema.migrate, url)
    for encoding in ENCODINGS:
        assert f"its encoding is {encoding}" in line_of(schema.revisions, server[encoding])


async def test_a_worker_says_the_same_of_the_encoding_and_of_rights_that_it_lacks(server: dict[str, str]) -> None:
    for url, says in {
        server["SQL_ASCII"]: "its encoding is SQL_ASCII",
        server["unprivileged"]: "this role lacks a right",
    }.items():
        store = Database(open_engine(make_settings(database_url=url)))
        try:
            with pytest.raises(DatabaseUnavailable, match=says):
                await store.transaction(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM members"))
        finally:
            await store.close()


def test_the_clients_encoding_is_ours_whatever_the_environment_says(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    engine = database.open_sync_engine(make_settings(database_url=server["migrated"]))
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT '銀行'").scalar() == "銀行"
    engine.dispose()


def test_a_schema_of_a_newer_version_is_not_taken_for_an_older_one(server: dict[str, str]) -> None:
    with psycopg.connect(server["migrated"], autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "is newer than this version" in line_of(schema.migrate, server["migrated"])


def test_a_server_that_cannot_be_reached_or_speaks_no_tls_is_named() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert "PostgreSQL at 127.0.0.1: nobody listens there" in line_of(
            schema.migrate, f"postgresql://a:s3cr3t@127.0.0.1:{port}/x"
        )
        url = f"postgresql://a:s3cr3t@127.0.0.1:{port},127.0.0.1:{port}/x"
        assert "PostgreSQL at 127.0.0.1,127.0.0.1: nobody listens there" in line_of(schema.migrate, url)
    assert "its host name is unknown" in line_of(schema.migrate, "postgresql://a:s3cr3t@no-such-host.invalid/x")
    assert "there is no server's socket" in line_of(schema.migrate, "postgresql://a:s3cr3t@/x?host=/nonexistent")
    line = line_of(schema.migrate, "postgresql://a:s3cr3t@127.0.0.1/x?sslmode=verify-full&sslrootcert=/nonexistent")
    assert "its sslrootcert is not there" in line or "nobody listens" in line  # libpq connects before it reads the file


async def test_more_work_than_connections_is_named_too(postgres: Postgres) -> None:
    engine = open_engine(make_settings(database_url=postgres.database()), pool_size=1)
    engine.pool._timeout = 0.1  # type: ignore[attr-defined]
    database = Database(engine, retry_seconds=0.1)

    async def inner(connection: Any) -> None:
        await connection.exec_driver_sql("SELECT 1")

    async def outer(_: Any) -> None:
        await database.transaction(inner)

    with pytest.raises(DatabaseUnavailable, match="all connections of this process have been in use for too long"):
        await database.transaction(outer)
    await database.close()


def test_what_is_wrong_with_a_sqlite_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_SQLITE_BUSY_SECONDS", 0.1)
    (tmp_path / "text.db").write_text("s3cr3t " * 500)
    assert "the file is no SQLite database" in line_of(schema.migrate, f"sqlite:///{tmp_path}/text.db")
    assert "the file cannot be opened" in line_of(schema.migrate, f"sqlite:///{tmp_path}/nowhere/x.db")
    assert "the file cannot be opened" in line_of(schema.migrate, f"sqlite:///{tmp_path}")
    held = sqlite3.connect(tmp_path / "held.db", isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    assert "another process holds it" in line_of(schema.migrate, f"sqlite:///{tmp_path}/held.db")
    held.close()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_a_letter_shows_its_number(tmp_path: Path, encoding: str) -> None:
    script = (
        "import sys; from worker.cli import main; import worker.cli.session as s; import worker.cli.setup as setup\n"
        "from worker.errors import WorkerError\n"
        "def migrate():\n    s.out.print('bank 銀行 —'); s.print_json({'bank': '銀行'}); raise WorkerError('銀行')\n"
        "setup.migrate = migrate\nsys.argv = ['reconnect', 'migrate']\nmain()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    assert b"Traceback" not in ran.stderr
    assert ran.stderr.strip() == b"reconnect: \\u9280\\u884c"
    assert b"bank \\u9280\\u884c" in ran.stdout
    assert b'"bank": "\\u9280\\u884c"' in ran.stdout
