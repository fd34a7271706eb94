"""The members that everything is measured with, one to a user who has an e-mail address; the same in both databases."""

import sqlite3
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from uuid import UUID

import psycopg

#: Customers of many banks.
INSTITUTIONS = 500
#: Ours alone, emptied between two runs. The order is the one in which they refer to each other.
WORK_TABLES = ("notification_reconnections", "notifications", "windows", "reconnections", "sweeps")


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
    """So many members, the first of them broken. Indexes that the planner needs figures for are analysed."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (user_guid, email) "
            "SELECT 'USR-' || md5('u' || i)::uuid, 'person' || i || '@mail.example' FROM generate_series(0::bigint, %s) i",
            (broken - 1,),
        )
        connection.execute(
            "INSERT INTO members (member_guid, user_guid, institution_code, institution_name, connection_status) "
            "SELECT 'MBR-' || md5('m' || i)::uuid, 'USR-' || md5('u' || i)::uuid, 'bank_' || i %% %s, 'MX Bank (OAuth)', "
            "CASE WHEN i < %s THEN 'DENIED' ELSE 'CONNECTED' END FROM generate_series(0::bigint, %s) i",
            (INSTITUTIONS, broken, members - 1),
        )
        connection.execute("VACUUM ANALYZE users, members")
        connection.execute("CHECKPOINT")


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


def fill_well(url: str, members: int) -> None:
    """So many members that are well."""
    with psycopg.connect(url, autocommit=True) as connection:
        for start in range(0, members, 1_000_000):
            connection.execute(
                "INSERT INTO members (member_guid, user_guid, institution_code, institution_name, connection_status) "
                "SELECT 'MBR-' || md5('m' || i)::uuid, 'USR-' || md5('u' || i)::uuid, 'bank_' || i %% %s, 'MX Bank (OAuth)', 'CONNECTED' "
                "FROM generate_series(%s::bigint, %s) i",
                (INSTITUTIONS, start, min(start + 1_000_000, members) - 1),
            )
        connection.execute("VACUUM ANALYZE members")
        connection.execute("CHECKPOINT")


def set_status(connection: psycopg.Connection, status: str, *, first: int, step: int, count: int) -> None:
    """Break members, or make them well: every ``step``-th from ``first`` on."""
    connection.execute(
        "UPDATE members SET connection_status = %s WHERE member_guid = ANY "
        "(ARRAY(SELECT 'MBR-' || md5('m' || i)::uuid FROM generate_series(%s::bigint, %s, %s) i))",
        (status, first, first + step * (count - 1), step),
    )
