"""Counts the requests to the database and the broker, and the database's time for each statement.

The bundled PostgreSQL has no ``pg_stat_statements``. So during one run that is not timed, it logs every statement with its duration
(``log_min_duration_statement = 0``, without parameters). Each execution is one line, including ``BEGIN`` and ``COMMIT``.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from ops.bench.servers import Broker, Postgres

# "parse" and "bind" lines belong to the "execute" line that follows them.
_LINE = re.compile(
    r"^(?!bench )[^ ]* LOG:  duration: ([0-9.]+) ms  (statement|parse|bind|execute)(?: [^:]*)?: ?(.*(?:\n\t.*)*)",
    re.MULTILINE,
)
_CONTROL = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "SET", "SHOW", ""})
_PAUSE = re.compile(r"\s+")


@dataclass
class Statement:
    """All executions of one statement."""

    calls: int = 0
    milliseconds: float = 0.0


@dataclass
class Counted:
    """The requests of a block of work to the database and the broker."""

    statements: dict[str, Statement] = field(default_factory=lambda: defaultdict(Statement))
    redis: dict[str, int] = field(default_factory=dict)

    @property
    def statement_count(self) -> int:
        """How many statements there were, including transaction control."""
        return sum(statement.calls for statement in self.statements.values())

    @property
    def work_count(self) -> int:
        """How many statements there were, without ``BEGIN``, ``COMMIT`` and the like."""
        return sum(statement.calls for text, statement in self.statements.items() if not is_control(text))

    @property
    def database_milliseconds(self) -> float:
        """The database's time for all statements."""
        return sum(statement.milliseconds for statement in self.statements.values())

    @property
    def redis_count(self) -> int:
        """How many commands the broker got, including those of new connections and of idle polling."""
        return sum(self.redis.values())


def is_control(text: str) -> bool:
    """Whether a statement begins or ends a transaction, or only tests the connection."""
    return re.split(r"[;\s]", text.strip("; "), maxsplit=1)[0].upper() in _CONTROL


@contextmanager
def statements_logged(postgres: Postgres, name: str) -> Iterator[None]:
    """Let sessions of one database that begin in this block log every statement."""
    settings = {"log_min_duration_statement": "0", "log_parameter_max_length": "0"}
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        for setting, value in settings.items():
            connection.execute(f"ALTER DATABASE {name} SET {setting} = {value}")
        try:
            yield
        finally:
            for setting in settings:
                connection.execute(f"ALTER DATABASE {name} RESET {setting}")


@contextmanager
def counted(postgres: Postgres, broker: Broker) -> Iterator[Counted]:
    """Count the requests of the block. To be used within :func:`statements_logged`."""
    found = Counted()
    offset, before = postgres.log.stat().st_size, broker.commands()
    yield found
    after = broker.commands()
    found.redis = {name: calls - before.get(name, 0) for name, calls in after.items() if calls > before.get(name, 0)}
    with postgres.log.open(encoding="utf-8", errors="replace") as log:
        log.seek(offset)
        for duration, kind, text in _LINE.findall(log.read()):
            statement = found.statements[_PAUSE.sub(" ", text).strip()]
            statement.milliseconds += float(duration)
            statement.calls += kind in {"statement", "execute"}
