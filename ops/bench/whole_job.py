"""The worker's whole job on one database, and its time: sweep, fetch, windows and notifications stored.

Mail is paused (`reconnect pause channel:email`), so that no delivery runs during the measure.
"""

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from ops.bench.population import WORK_TABLES, fill_sqlite
from ops.bench.processes import Celeries, celery_worker, cpu_of, failures, reconnect, settings_of, wait_until
from ops.bench.servers import Broker, Postgres, Upstream

_BROKEN = "FROM members WHERE connection_status = 'DENIED'"
#: The SQL of `reconnect pause channel:email`.
PAUSE_MAIL = "INSERT INTO pauses (scope, reason, since) VALUES ('channel:email', 'bench', CURRENT_TIMESTAMP)"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run of the whole job."""

    members: int
    #: From the moment at which the sweep's task was sent until the last row was stored.
    seconds: float
    #: From the first request that MX saw until the last row was stored.
    fetch_seconds: float
    #: CPU seconds of the worker's processes, and of the database's and MX's.
    worker_cpu: float
    database_cpu: float
    upstream_cpu: float
    #: The requests as MX counted them: (moment, requests begun, requests answered), on the machine's monotonic clock.
    course: tuple[tuple[float, int, int], ...]

    @property
    def rate(self) -> float:
        """Members a second, including the sweep."""
        return self.members / self.seconds

    @property
    def fetch_rate(self) -> float:
        """Members a second from the first request to MX on."""
        return self.members / self.fetch_seconds


class Database:
    """Queries of a run, for both kinds of database."""

    def __init__(self, url: str) -> None:
        self.url = url

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """A connection in autocommit mode."""
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)) as it:
                yield it
        else:
            with psycopg.connect(self.url, autocommit=True) as connection:
                yield connection

    def one(self, query: str) -> Any:
        """The first column of the only row."""
        with self.connected() as connection:
            return connection.execute(query).fetchone()[0]

    def empty_work(self) -> None:
        """Empty our tables, as before the first sweep. All broken members are on the list of changed members."""
        with self.connected() as connection:
            if self.url.startswith("sqlite"):
                for table in (*WORK_TABLES, "changed_members"):
                    connection.execute(f"DELETE FROM {table}")
                connection.execute(f"INSERT INTO changed_members (member_guid, id) SELECT member_guid, 0 {_BROKEN}")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            else:
                connection.execute(f"TRUNCATE {', '.join((*WORK_TABLES, 'changed_members'))}")
                connection.execute(f"INSERT INTO changed_members (member_guid) SELECT member_guid {_BROKEN}")
                connection.execute("CHECKPOINT")

    def wait_until_fetched(self, seconds: float) -> float:
        """Wait until no reconnection is due or leased; return that moment."""
        unfinished = "SELECT EXISTS (SELECT 1 FROM reconnections WHERE state = 'leased') OR EXISTS (SELECT 1 FROM reconnections WHERE state = 'due')"
        with self.connected() as connection:
            wait_until(
                lambda: not connection.execute(unfinished).fetchone()[0], seconds=seconds, every=0.01, what="the end"
            )
        return time.monotonic()

    def check_stored(self, members: int) -> None:
        """Raise ``RuntimeError`` unless every member has an encrypted window and a pending notification."""
        checks = {
            "reconnections that are ready": "SELECT count(*) FROM reconnections WHERE state = 'ready'",
            "encrypted URIs": "SELECT count(*) FROM windows WHERE uri LIKE 'gAAAA%' AND superseded_at IS NULL",
            "notifications": "SELECT count(*) FROM notifications WHERE state = 'pending'",
            "links": "SELECT count(*) FROM notification_reconnections",
        }
        for what, query in checks.items():
            if (found := self.one(query)) != members:
                raise RuntimeError(f"{found} {what} where {members} must be: this run counts for nothing")


@dataclass
class Site:
    """A running worker with its own database."""

    worker: Celeries
    database: Database
    upstream: Upstream
    postgres: Postgres | None
    broken: int

    def run(self, **knobs: float) -> Ran:
        """Run the whole job once: sweep, and wait until everything is stored."""
        self.database.empty_work()
        self.upstream.set(**knobs)
        processes = [self.worker.main, *self.worker.children]
        cpu = sum(map(cpu_of, processes))
        database_cpu = self.postgres.cpu() if self.postgres else 0.0
        upstream_cpu = self.upstream.stats()["cpu"]
        began = time.monotonic()
        self.worker.send("sweep")
        patience = 60 + self.broken / 100
        wait_until(
            lambda: self.upstream.stats()["answered"] >= self.broken, seconds=patience, every=0.02, what="fetching"
        )
        ended = self.database.wait_until_fetched(patience)
        ran = Ran(
            members=self.broken,
            seconds=ended - began,
            fetch_seconds=ended - self.upstream.stats()["first_at"],
            worker_cpu=sum(map(cpu_of, processes)) - cpu,
            database_cpu=self.postgres.cpu() - database_cpu if self.postgres else 0.0,
            upstream_cpu=self.upstream.stats()["cpu"] - upstream_cpu,
            course=tuple(map(tuple, self.upstream.stats()["course"])),
        )
        self.database.check_stored(self.broken)
        if complaints := failures(self.worker.log):
            raise RuntimeError(f"the worker complains: {complaints[0]}")
        return ran

    def course_of(self, seconds: float, **knobs: float) -> tuple[tuple[float, int, int], ...]:
        """Work for ``seconds`` from the first request on, then pause; return the course of requests as MX counted them.

        The next call waits until the claimed rows are finished. After the last call nothing waits for them.
        """
        with self.database.connected() as connection:
            unfinished = "SELECT EXISTS (SELECT 1 FROM reconnections WHERE state = 'leased')"
            wait_until(
                lambda: not connection.execute(unfinished).fetchone()[0], every=0.2, what="the end of what is in hand"
            )
            self.database.empty_work()
            connection.execute("DELETE FROM pauses WHERE scope = 'everything'")
            self.upstream.set(**knobs)
            self.worker.send("sweep")
            patience = 60 + self.broken / 1000
            wait_until(lambda: self.upstream.stats()["begun"], seconds=patience, every=0.1, what="the first request")
            time.sleep(seconds)
            course = tuple(map(tuple, self.upstream.stats()["course"]))
            connection.execute("INSERT INTO pauses (scope, reason, since) VALUES ('everything', 'bench', now())")
        return course


@contextmanager
def site_on_postgres(
    postgres: Postgres,
    template: str,
    *,
    name: str,
    broker: Broker,
    number: int,
    upstream: Upstream,
    broken: int,
    children: int = 1,
    **settings: Any,
) -> Iterator[Site]:
    """A worker with its own copy of a filled database and its own broker database."""
    url = postgres.create(name, template=template)
    given = settings_of(database_url=url, redis_url=broker.url(number), mx_url=upstream.url, **settings)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        celery_worker(given, children=children, folder=Path(folder)) as worker,
    ):
        yield Site(worker, Database(url), upstream, postgres, broken)
    postgres.drop(name)


@contextmanager
def site_on_sqlite(
    *, broker: Broker, number: int, upstream: Upstream, members: int, broken: int, children: int = 1, **settings: Any
) -> Iterator[Site]:
    """The same on SQLite."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "reconnect.db"
        url = f"sqlite:///{path}"
        given = settings_of(database_url=url, redis_url=broker.url(number), mx_url=upstream.url, **settings)
        reconnect(given, "migrate")
        fill_sqlite(path, members=members, broken=broken)
        with Database(url).connected() as connection:
            connection.execute(PAUSE_MAIL)
        with celery_worker(given, children=children, folder=Path(folder)) as worker:
            yield Site(worker, Database(url), upstream, None, broken)
