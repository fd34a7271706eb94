"""The cost of the list of changed members for an application: the same writes with the triggers and without them."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psycopg

from ops.bench.bench import Bench
from ops.bench.measures.importing import write_members
from ops.bench.population import INSTITUTIONS, fill_alike
from ops.bench.processes import reconnect, settings_of
from ops.bench.results import Row, in_turns, ratios, row_of

#: How many rows a bulk write has, and how many the members table has.
BULK, MEMBERS = 100_000, 300_000
#: How many updates of one row are timed in one round.
SINGLE = 1_000

_GUIDS = "SELECT member_guid FROM members ORDER BY user_guid LIMIT %s"
#: Breaks members that are well, and the other way round: every row changes, and each is added to the list.
_TURNED = (
    "UPDATE members SET connection_status = CASE connection_status WHEN 'CONNECTED' THEN 'DENIED' ELSE 'CONNECTED' END "
)


class Writer:
    """A database that an application writes to."""

    def __init__(self, bench: Bench, *, listed: bool) -> None:
        self.name = f"writing_{listed}".lower()
        self.url = bench.migrated(self.name)
        fill_alike(self.url, MEMBERS, status="CONNECTED")
        with psycopg.connect(self.url, autocommit=True) as connection:
            if not listed:
                connection.execute("ALTER TABLE members DISABLE TRIGGER USER")
            self._guids = [guid for (guid,) in connection.execute(_GUIDS, (BULK,))]

    def _timed(self, write: Callable[[psycopg.Connection], None]) -> float:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("TRUNCATE changed_members")
            connection.execute("VACUUM members")
            connection.execute("CHECKPOINT")
            began = time.perf_counter()
            write(connection)
            return time.perf_counter() - began

    def single(self) -> float:
        """Seconds of an update of one row by its key, each a transaction."""

        def write(connection: psycopg.Connection) -> None:
            for guid in self._guids[:SINGLE]:
                connection.execute(_TURNED + "WHERE member_guid = %s", (guid,))

        return self._timed(write) / SINGLE

    def bulk(self) -> float:
        """Seconds of one update of many rows."""
        return self._timed(
            lambda connection: _execute(connection, _TURNED + "WHERE member_guid = ANY(%s)", self._guids)
        )

    def copied(self) -> float:
        """Seconds of a COPY of many new rows, a tenth of them broken."""

        def write(connection: psycopg.Connection) -> None:
            with connection.cursor().copy(
                "COPY members (member_guid, user_guid, institution_code, connection_status, token_expires_at) FROM STDIN"
            ) as copy:
                for number in range(BULK):
                    status = "CONNECTED" if number % 10 else "DENIED"
                    copy.write_row(
                        (f"MBR-new-{number}", f"USR-{number}", f"bank_{number % INSTITUTIONS}", status, "2099-01-01")
                    )

        try:
            return self._timed(write)
        finally:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute("DELETE FROM members WHERE member_guid LIKE 'MBR-new-%'")


def _execute(connection: psycopg.Connection, statement: str, guids: list[str]) -> None:
    connection.execute(statement, (guids,))


def writing(bench: Bench) -> None:
    """Measure each kind of write alternately with and without the triggers."""
    writers = {listed: Writer(bench, listed=listed) for listed in (False, True)}
    for what, name, unit, times, at_most in (
        ("an update of one row", "single", "µs", 1e6, None),
        (f"an update of {BULK:,} rows", "bulk", "s", 1, 1.25),
        (f"a COPY of {BULK:,} new rows", "copied", "s", 1, 1.25),
    ):
        runs = {f"{listed}": getattr(writer, name) for listed, writer in writers.items()}
        in_turns(runs, 1)
        found = in_turns(runs, bench.form.rounds)
        bench.add(_row(what, found, unit, times=times, at_most=at_most))
    for writer in writers.values():
        bench.postgres.drop(writer.name)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "members.csv"
        write_members(file, BULK)
        imports = {f"{listed}": lambda listed=listed: _import(bench, file, listed=listed) for listed in (False, True)}
        found = in_turns(imports, bench.form.import_rounds)
        bench.add(_row(f"reconnect import of {BULK:,} rows", found, "s", at_most=1.25))


def _row(what: str, found: dict[str, list[float]], unit: str, *, times: float = 1, at_most: float | None) -> Row:
    with_, without = found["True"], found["False"]
    return row_of(
        f"{what}: with the list of changed members ÷ without",
        ratios(with_, without),
        at_most=at_most,
        detail=f"{median(with_) * times:.3g} {unit} against {median(without) * times:.3g} {unit}",
    )


def _import(bench: Bench, file: Path, *, listed: bool) -> float:
    url = bench.migrated("importing")
    if not listed:
        with psycopg.connect(url) as connection:
            connection.execute("ALTER TABLE members DISABLE TRIGGER USER")
    given = settings_of(database_url=url, redis_url="redis://127.0.0.1:9/0", mx_url="http://127.0.0.1:9")
    began = time.monotonic()
    reconnect(given, "import", str(file))
    took = time.monotonic() - began
    bench.postgres.drop("importing")
    return took
