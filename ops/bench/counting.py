"""How often the database and the broker are asked, and where the database's time goes.

The bundled PostgreSQL has no ``pg_stat_statements``, so it is asked to log every statement with its duration
(``log_min_duration_statement = 0``, without parameters) while one untimed run is counted. Each execution is one line there,
``BEGIN`` and ``COMMIT`` included.
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
    """What a block of work asked of the database and the broker."""

    statements: dict[str, Statement] = field(default_factory=lambda: defaultdict(Statement))
    redis: dict[str, int] = field(default_factory=dict)

    @property
    def statement_count(self) -> int:
        """Statements, transaction control included."""
        return sum(statement.calls for statement in self.statements.values())

    @property
    def work_count(self) -> int:
        """Statements without ``BEGIN``, ``COMMIT`` and the like."""
        return sum(statement.calls for text, statement in self.statements.items() if not is_control(text))

    @property
    def database_milliseconds(self) -> float:
        """How long the database took for all of them."""
        return sum(statement.milliseconds for statement in self.statements.values())

    @property
    def redis_count(self) -> int:
        """Commands to the broker, the connections' greetings and the workers' idle polling included."""
        return sum(self.redis.values())


def is_control(text: str) -> bool:
    """Whether it begins or ends a transaction, or asks whether the connection lives."""
    return re.split(r"[;\s]", text.strip("; "), maxsplit=1)[0].upper() in _CONTROL


@contextmanager
def statements_logged(postgres: Postgres, name: str) -> Iterator[None]:
    """Sessions that begin in this block log every statement; those of one database alone."""
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
    """Count what the block asks; to be used within :func:`statements_logged`."""
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
