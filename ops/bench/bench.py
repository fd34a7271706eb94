"""The object that every measure gets."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from ops.bench.forms import Form
from ops.bench.population import fill_postgres
from ops.bench.processes import reconnect, settings_of
from ops.bench.results import Results, Row
from ops.bench.servers import Broker, Postgres, Upstream, environment
from ops.bench.whole_job import PAUSE_MAIL, Site, site_on_postgres

#: The default of ``BATCH_SIZE``.
DEFAULT_SLICE = 200


@dataclass
class Bench:
    """The servers, the form and the results."""

    form: Form
    postgres: Postgres
    broker: Broker
    upstream: Upstream
    results: Results
    _templates: dict[str, str] = field(default_factory=dict)
    _sites: int = 0

    def add(self, *rows: Row) -> None:
        """Add rows to the table, and print them."""
        for row in rows:
            print(f"  {row.what}: {row.shown} {row.wanted} {row.detail}", flush=True)
            self.results.rows.append(row)

    def template(self, broken: int) -> str:
        """The name of a database with ``broken`` broken members, as many that are well, and mail paused."""
        name = f"filled_{broken}"
        if name not in self._templates:
            url = self.migrated(name)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(PAUSE_MAIL)
            fill_postgres(url, members=2 * broken, broken=broken)
            self._templates[name] = url
        return name

    def migrated(self, name: str) -> str:
        """Create an empty database with the newest schema; return its URL."""
        if "migrated" not in self._templates:
            url = self.postgres.create("migrated")
            reconnect(
                settings_of(database_url=url, redis_url="redis://127.0.0.1:9/0", mx_url="http://127.0.0.1:9"), "migrate"
            )
            self._templates["migrated"] = url
        return self.postgres.create(name, template="migrated")

    @contextmanager
    def site(self, *, broken: int, children: int = 1, **settings: Any) -> Iterator[Site]:
        """A running worker on PostgreSQL."""
        self._sites += 1
        number = self._sites
        with site_on_postgres(
            self.postgres,
            self.template(broken),
            name=f"site_{number}",
            broker=self.broker,
            number=number % 16,
            upstream=self.upstream,
            broken=broken,
            children=children,
            # The best setting, as for the rivals: a batch has a member for every connection, and at least the default size.
            **{"batch_size": max(settings.get("mx_max_connections", 0), DEFAULT_SLICE)} | settings,
        ) as site:
            yield site

    def bare(self, *, requests: int, in_flight: int, stop_after: float = 3600.0, **knobs: float) -> "Bare":
        """Run bare aiohttp against the same server."""
        self.upstream.set(**knobs)
        cpu = self.upstream.stats()["cpu"]
        options = {"--requests": requests, "--in-flight": in_flight, "--stop-after": stop_after}
        found = run_module(
            "ops.bench.bare", self.upstream.url, *(str(word) for option in options.items() for word in option)
        )
        stats = self.upstream.stats()
        return Bare(
            requests=requests,
            seconds=found["seconds"],
            cpu=found["cpu"],
            upstream_cpu=stats["cpu"] - cpu,
            course=tuple(map(tuple, stats["course"])),
        )


@dataclass(frozen=True, kw_only=True)
class Bare:
    """One run of bare aiohttp."""

    requests: int
    seconds: float
    #: CPU seconds of the client, and of MX.
    cpu: float
    upstream_cpu: float
    course: tuple[tuple[float, int, int], ...]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def run_module(*arguments: str) -> Any:
    """Run a module of ours that prints JSON."""
    ran = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{arguments[0]}: {ran.stderr[-2000:]}")
    return json.loads(ran.stdout)
