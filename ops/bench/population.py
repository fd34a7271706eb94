"""The members of all measures: each has its own user with an e-mail address. They are the same in both databases."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path
from uuid import UUID

import psycopg

#: How many institutions the members have.
INSTITUTIONS = 500
#: Our own tables, which are emptied between two runs. A table is before those that it refers to.
WORK_TABLES = ("notification_reconnections", "windows", "clicks", "links", "notifications", "reconnections", "sweeps")


def user_guid(number: int) -> str:
    """The GUID of a user, as long as MX's are."""
    return f"USR-{UUID(md5(b'u%d' % number).hexdigest())}"


def member_guid(number: int) -> str:
    """The GUID of their member."""
    return f"MBR-{UUID(md5(b'm%d' % number).hexdigest())}"


def institution(number: int) -> str:
    """The code of their bank."""
    return f"bank_{number % INSTITUTIONS}"


def fill_postgres(url: str, *, members: int, broken: int) -> None:
    """Write members, of which the first ``broken`` are broken, and analyse the tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        with _indexed_afterwards(connection, "users"):
            connection.execute(
                "INSERT INTO users (user_guid, email) SELECT 'USR-' || md5('u' || i)::uuid, 'person' || i || '@mail.example' "
                "FROM generate_series(0::bigint, %s) i",
                (broken - 1,),
            )
        with _indexed_afterwards(connection, "members"):
            _add_members(connection, 0, broken, status="DENIED")
            _add_members(connection, broken, members, status="CONNECTED")
        connection.execute("VACUUM ANALYZE users, members")
        connection.execute("CHECKPOINT")


def fill_alike(url: str, members: int, *, status: str) -> None:
    """Write members with one status, without rows in ``users``."""
    with psycopg.connect(url, autocommit=True) as connection:
        with _indexed_afterwards(connection, "members"):
            for start in range(0, members, 1_000_000):
                _add_members(connection, start, min(start + 1_000_000, members), status=status)
        connection.execute("VACUUM ANALYZE members")
        connection.execute("CHECKPOINT")


def _add_members(connection: psycopg.Connection, first: int, end: int, *, status: str) -> None:
    connection.execute(
        "INSERT INTO members (member_guid, user_guid, institution_code, institution_name, connection_status) "
        "SELECT 'MBR-' || md5('m' || i)::uuid, 'USR-' || md5('u' || i)::uuid, 'bank_' || i %% %s, 'MX Bank (OAuth)', %s "
        "FROM generate_series(%s::bigint, %s) i",
        (INSTITUTIONS, status, first, end - 1),
    )


def fill_standing(url: str, *, ended: int, waiting: int) -> None:
    """Break the first members: ``ended`` with a reconnection that ended (gone or exhausted), then ``waiting`` with one that waits for its
    reminder.
    """
    if not ended + waiting:
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE members DISABLE TRIGGER USER")  # as if they had been visited long ago
        with _indexed_afterwards(connection, "reconnections"):
            connection.execute(
                "INSERT INTO reconnections (member_guid, user_guid, institution_code, state, reason, broken_since, opened_at, "
                "closed_at, reopen_at, next_attempt_at, next_check_at, step, first_notified_at, notified_at) "
                "SELECT 'MBR-' || md5('m' || i)::uuid, 'USR-' || md5('u' || i)::uuid, 'bank_' || i %% %(banks)s, "
                "CASE WHEN i >= %(ended)s THEN 'notified' WHEN i %% 2 = 0 THEN 'exhausted' ELSE 'gone' END, "
                "'connection_status', began, began, CASE WHEN i < %(ended)s THEN began + interval '30 days' END, "
                "CASE WHEN i < %(ended)s THEN timestamptz '9999-01-01 00:00+00' END, "
                "CASE WHEN i >= %(ended)s THEN now() + interval '3 days' END, "
                "CASE WHEN i >= %(ended)s THEN now() + interval '3 days' END, 1, began, began "
                "FROM (SELECT i, CASE WHEN i < %(ended)s THEN now() - interval '300 days' ELSE now() - interval '4 days' END "
                "+ i %% 1000 * interval '1 minute' AS began FROM generate_series(0::bigint, %(last)s) i) each",
                {"banks": INSTITUTIONS, "ended": ended, "last": ended + waiting - 1},
            )
        (members,) = connection.execute("SELECT count(*) FROM members").fetchone() or (0,)
        with _indexed_afterwards(connection, "members"):  # an UPDATE of so many rows takes ten times as long
            connection.execute("TRUNCATE members")
            _add_members(connection, 0, ended + waiting, status="DENIED")
            _add_members(connection, ended + waiting, members, status="CONNECTED")
        connection.execute("ALTER TABLE members ENABLE TRIGGER USER")
        connection.execute("VACUUM ANALYZE members, reconnections")
        connection.execute("CHECKPOINT")


@contextmanager
def _indexed_afterwards(connection: psycopg.Connection, table: str) -> Iterator[None]:
    """Drop the indexes of an empty table, and build them after the block has filled it. That takes a quarter of the time."""
    keys = connection.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p' "
        "AND NOT EXISTS (SELECT 1 FROM pg_constraint f WHERE f.confrelid = %s::regclass)",
        (table, table),
    ).fetchall()
    for name, _ in keys:
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexname NOT LIKE 'pk_%%'", (table,)
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    yield
    for name, definition in keys:
        connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    for _, definition in indexes:
        connection.execute(definition)


def fill_sqlite(path: Path, *, members: int, broken: int) -> None:
    """The same in a SQLite file."""
    users: Iterator[tuple[object, ...]] = ((user_guid(i), f"person{i}@mail.example") for i in range(broken))
    rows: Iterator[tuple[object, ...]] = (
        (member_guid(i), user_guid(i), institution(i), "MX Bank (OAuth)", "DENIED" if i < broken else "CONNECTED")
        for i in range(members)
    )
    with sqlite3.connect(path) as connection:
        connection.executemany("INSERT INTO users (user_guid, email) VALUES (?, ?)", users)
        connection.executemany(
            "INSERT INTO members (member_guid, user_guid, institution_code, institution_name, connection_status) "
            "VALUES (?, ?, ?, ?, ?)",
            rows,
        )
    connection.close()


def set_status(connection: psycopg.Connection, status: str, *, first: int, step: int, count: int) -> None:
    """Break members, or make them well: every ``step``-th from ``first`` on."""
    connection.execute(
        "UPDATE members SET connection_status = %s WHERE member_guid = ANY "
        "(ARRAY(SELECT 'MBR-' || md5('m' || i)::uuid FROM generate_series(%s::bigint, %s, %s) i))",
        (status, first, first + step * (count - 1), step),
    )
