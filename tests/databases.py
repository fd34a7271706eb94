"""One real PostgreSQL server for a whole run, and an empty, migrated database for each test within milliseconds."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

#: Reads everything that a test can change in a database besides rows.
_SHAPE = """
SELECT (SELECT string_agg(relname || relkind, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
       (SELECT md5(string_agg(attrelid || attname || atttypid || attnotnull || coalesce(pg_get_expr(adbin, adrelid), ''), ' '
                   ORDER BY attrelid, attnum))
          FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
         WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) AND NOT attisdropped),
       (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM pg_policy),
       (SELECT count(*) FROM pg_db_role_setting), (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_roles),
       (SELECT string_agg(version_num, ' ') FROM alembic_version)
"""


@dataclass
class Postgres:
    """A server, and databases on it that are made from a migrated template."""

    uri: str
    made: int = 0
    _idle: list[str] = field(default_factory=list)
    _shape: tuple[Any, ...] | None = None

    def database(self) -> str:
        """The URL of a fresh, migrated database."""
        self.made += 1
        name = f"t{os.getpid()}_{self.made}"
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE migrated STRATEGY file_copy")
        return self.uri.replace("/postgres?", f"/{name}?")

    def lent(self) -> Iterator[str]:
        """The URL of an empty, migrated database, which another test may get afterwards."""
        url = self._idle.pop() if self._idle else self.database()
        yield url
        with suppress(psycopg.Error):
            if self._is_as_new(url):
                self._idle.append(url)
                return
        name = url.rpartition("/")[2].partition("?")[0]
        with suppress(psycopg.Error), psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _is_as_new(self, url: str) -> bool:
        """Delete all rows and reset the sequences; returns False if a test changed more than rows."""
        with psycopg.connect(url, autocommit=True, options="-c lock_timeout=2s") as connection:
            if self._shape is None:
                with psycopg.connect(self.uri.replace("/postgres?", "/migrated?"), autocommit=True) as template:
                    self._shape = template.execute(_SHAPE).fetchone()
            if connection.execute(_SHAPE).fetchone() != self._shape:
                return False
            tables = [name for (name,) in connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
                " AND relname <> 'alembic_version'"
            )]  # fmt: skip
            used = " UNION ALL ".join(f"SELECT '{name}' FROM (SELECT 1 FROM {name} LIMIT 1) x" for name in tables)
            # Disables triggers: the one of ``members`` would write a row to ``changed_members``.
            connection.execute("SET session_replication_role = replica")
            if written := [name for (name,) in connection.execute(used)]:
                connection.execute(f"TRUNCATE {', '.join(written)} CASCADE")
            connection.execute(
                "SELECT setval(oid::regclass, 1, false) FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"
            )
            connection.execute("SET allow_system_table_mods = on")
            connection.execute("DELETE FROM pg_statistic WHERE starelid >= 16384")
        return True
