"""The database for the tests: queries, a record of every change of a state, and rows made due before their time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from tests.machine import wait_until
from worker.policy.states import NOTIFICATION_STEPS, RECONNECTION_STEPS, UNDONE_REFUSALS, NotificationState

#: A moment long past, in the form that each database compares.
PAST = {"sqlite": "2000-01-01 00:00:00.000000", "postgresql": "2000-01-01 00:00:00+00"}

#: Triggers that record every change of a state in ``observed``. ``before`` is NULL for a new row.
_WATCH = {
    "sqlite": [
        "CREATE TABLE observed (what TEXT, id INTEGER, before TEXT, after TEXT)",
        *(
            f"CREATE TRIGGER observe_{table}_{event} AFTER {event} ON {table} {when} BEGIN"
            f" INSERT INTO observed VALUES ('{table}', NEW.id, {before}, NEW.state); END"
            for table in ("reconnections", "notifications")
            for event, when, before in (
                ("INSERT", "", "NULL"),
                ("UPDATE", "WHEN OLD.state IS NOT NEW.state", "OLD.state"),
            )
        ),
    ],
    "postgresql": [
        "CREATE TABLE observed (what text, id bigint, before text, after text)",
        (
            "CREATE FUNCTION observe() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF TG_OP = 'INSERT' THEN INSERT INTO observed VALUES (TG_TABLE_NAME, NEW.id, NULL, NEW.state);"
            " ELSIF OLD.state <> NEW.state THEN INSERT INTO observed VALUES (TG_TABLE_NAME, NEW.id, OLD.state, NEW.state);"
            " END IF; RETURN NULL; END $$"
        ),
        *(
            f"CREATE TRIGGER observe AFTER INSERT OR UPDATE OF state ON {table} FOR EACH ROW EXECUTE FUNCTION observe()"
            for table in ("reconnections", "notifications")
        ),
    ],
}

#: By name: makes a kind of waiting rows due.
_WAITING = {
    "retries": "UPDATE reconnections SET next_attempt_at = :past WHERE state = 'due'",
    "messages": "UPDATE notifications SET next_attempt_at = :past WHERE state = 'pending'",
    "looks": "UPDATE reconnections SET next_check_at = :past WHERE state = 'notified'",
    "pauses": "UPDATE pauses SET probe_at = :past WHERE probe_at IS NOT NULL",
}

#: By table and state: the states that may follow. None is a new row.
_STEPS: Mapping[str, Mapping[str | None, set[str]]] = {
    "reconnections": {None: {"due"}, **{str(a): set(map(str, b)) for a, b in RECONNECTION_STEPS.items()}},
    "notifications": {None: {"pending"}, **{str(a): set(map(str, b)) for a, b in NOTIFICATION_STEPS.items()}},
}
#: Further transitions that are allowed: a streak of refusals of us as a whole gives them back.
_UNDONE_REFUSALS = {
    ("notifications" if isinstance(before, NotificationState) else "reconnections", str(before), str(after))
    for move in UNDONE_REFUSALS
    for before in move.before
    for after in move.after
}
#: Reconnections that were given back although no message about them was.
_UNDONE_REFUSALS_ALONE = (
    "SELECT id FROM observed WHERE what = 'reconnections' AND before = 'due' AND after = 'ready' AND id NOT IN"
    " (SELECT l.reconnection_id FROM notification_reconnections l JOIN observed o ON o.id = l.notification_id"
    " WHERE o.what = 'notifications' AND o.before IN ('failed', 'suppressed') AND o.after = 'pending')"
)


class Records:
    """One database, by its ``DATABASE_URL``. Every query opens a new connection, so the server may restart in between."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.kind = parsed.get_backend_name()
        driver = "sqlite" if self.kind == "sqlite" else "postgresql+psycopg"
        self._now = "strftime('%Y-%m-%d %H:%M:%f', 'now')" if self.kind == "sqlite" else "clock_timestamp()"
        arguments = {"timeout": 30} if self.kind == "sqlite" else {}
        self._engine = create_engine(parsed.set(drivername=driver), poolclass=NullPool, connect_args=arguments)

    def close(self) -> None:
        """Dispose of the engine."""
        self._engine.dispose()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection with a transaction, which is committed at the end of the block."""
        with self._engine.begin() as connection:
            yield connection

    def all(self, query: str, **parameters: Any) -> list[Row[Any]]:
        """The rows of a query."""
        with self.connection() as connection:
            return list(connection.execute(text(query), parameters))

    def one(self, query: str, **parameters: Any) -> Any:
        """The only column of the only row."""
        ((value,),) = self.all(query, **parameters)
        return value

    def run(self, *statements: str, **parameters: Any) -> int:
        """Execute statements in one transaction; return how many rows the last one changed."""
        with self.connection() as connection:
            for statement in statements:
                result = connection.execute(text(statement), parameters)
            return result.rowcount

    def counts(self, table: str) -> dict[str, int]:
        """How many rows have each state."""
        return {row[0]: row[1] for row in self.all(f"SELECT state, count(*) FROM {table} GROUP BY state")}

    def moment(self, value: Any) -> datetime:
        """A moment of a row as an aware datetime in UTC."""
        found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    def watch_states(self) -> None:
        """From now on, record every change of a state."""
        self.run(*_WATCH[self.kind])

    def undocumented_steps(self) -> list[str]:
        """Changes of a state since :meth:`watch_states` that ``policy/states.py`` does not allow."""
        rows = self.all("SELECT what, before, after, count(*), min(id) FROM observed GROUP BY what, before, after")
        return [
            f"{row.what}: {row.before} -> {row.after}, {row[3]} times, first with id {row[4]}"
            for row in rows
            if row.after not in _STEPS[row.what][row.before]
            and (row.what, row.before, row.after) not in _UNDONE_REFUSALS
        ] + [f"reconnections: {row.id} was given back without its message" for row in self.all(_UNDONE_REFUSALS_ALONE)]

    def pass_time(self, *waiting: str) -> None:
        """Make waiting rows due now: all kinds, or those named of ``retries``, ``messages``, ``looks`` (checks) and ``pauses``."""
        for name in waiting or _WAITING:
            statement = _WAITING[name]
            wait_until(lambda statement=statement: self._run_unless_deadlocked(statement), what="an update")

    def _run_unless_deadlocked(self, statement: str) -> bool:
        """Execute a statement; return False on a deadlock. The worker updates the same rows in another order, so that can happen."""
        with suppress(OperationalError):
            self.run(statement, past=PAST[self.kind])
            return True
        return False

    def looks_due(self) -> int:
        """How many members are due for a check now."""
        return int(
            self.one(f"SELECT count(*) FROM reconnections WHERE state = 'notified' AND next_check_at <= {self._now}")
        )

    def unfinished(self) -> dict[str, int]:
        """How many rows are claimed or due now, by kind."""
        row = self.all(
            f"""SELECT
            (SELECT count(*) FROM reconnections WHERE state = 'leased') AS leased,
            (SELECT count(*) FROM reconnections WHERE state = 'due' AND next_attempt_at <= {self._now}) AS due,
            (SELECT count(*) FROM notifications WHERE state = 'sending') AS sending,
            (SELECT count(*) FROM notifications WHERE state = 'pending' AND next_attempt_at <= {self._now}) AS pending"""
        )[0]
        return {name: value for name, value in row._mapping.items() if value}

    def wait_until_nothing_is_unfinished(self, *, seconds: float) -> None:
        """Wait until no row is claimed or due. Rows that are due later may remain."""
        left: dict[str, int] = {}

        def done() -> bool:
            left.clear()
            left.update(self.unfinished())
            return not left

        try:
            wait_until(done, seconds=seconds, what="the end of the work", grain=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}: in hand are {left}") from None
