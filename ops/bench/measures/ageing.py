"""Whether the database stops growing: thirty days of work in some minutes, each with breaks, messages, returns and deletions.

The clock of the sweeps is set to each day. They are real: they open, close and delete. The statements of fetch and deliver are
executed here, in the same order, so that they leave as many dead rows. Autovacuum runs every second instead of every minute, so that
it runs often enough for each day.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from statistics import median

import psycopg

from ops.bench.bench import Bench
from ops.bench.plotting import Curve
from ops.bench.population import WORK_TABLES, fill_alike, set_status
from ops.bench.processes import settings_of
from ops.bench.results import Row
from worker.policy.retention import age_of_deletion
from worker.runtime import Runtime
from worker.settings import load_settings
from worker.stages.sweep import sweep

#: With a retention of a week, ended reconnections are deleted after 16 days: see :func:`age_of_deletion`.
DAYS, RETENTION_DAYS, LINK_DAYS = 30, 7, 7
#: A member breaks every 8 days.
_EVERY = 8
#: The days whose medians are compared: the first ones after which there should be no growth, and the last ones.
_FIRST, _LAST = range(20, 25), range(26, 31)

#: The statements of fetch and deliver for the reconnections of a day, in their order.
_TOLD = (
    "UPDATE reconnections SET state = 'leased', lease_worker = 'bench', lease_expires_at = now(), epoch = epoch + 1 WHERE state = 'due'",
    (
        "INSERT INTO windows (reconnection_id, epoch, member_guid, uri, fetched_at) "
        "SELECT id, epoch, member_guid, repeat('x', 300), %(now)s FROM reconnections WHERE state = 'leased'"
    ),
    (
        "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, next_attempt_at) "
        "SELECT user_guid, 'email', 0, 'pending', 'aged-' || id, %(now)s, %(now)s FROM reconnections WHERE state = 'leased'"
    ),
    (
        "INSERT INTO notification_reconnections (notification_id, reconnection_id, window_id, step, channel) "
        "SELECT n.id, w.reconnection_id, w.id, 0, 'email' FROM windows w "
        "JOIN notifications n ON n.message_key = 'aged-' || w.reconnection_id WHERE w.superseded_at IS NULL"
    ),
    (
        "INSERT INTO links (token_hash, user_guid, notification_id, created_at, expires_at) "
        "SELECT md5(message_key), user_guid, id, %(now)s, %(link_ends)s FROM notifications WHERE state = 'pending'"
    ),
    "UPDATE reconnections SET state = 'ready', lease_worker = NULL, lease_expires_at = NULL WHERE state = 'leased'",
    "UPDATE notifications SET state = 'sending', dispatched_at = %(now)s WHERE state = 'pending'",
    (
        "UPDATE notifications SET state = 'sent', sent_at = %(now)s, outcome = 'sent', outcome_at = %(now)s, next_attempt_at = NULL "
        "WHERE state = 'sending'"
    ),
    (
        "UPDATE reconnections SET state = 'notified', step = 1, first_notified_at = %(now)s, notified_at = %(now)s, "
        "next_attempt_at = %(reminder)s, next_check_at = %(reminder)s, outcome = 'told', outcome_at = %(now)s WHERE state = 'ready'"
    ),
)


class _Aged(Runtime):
    """A runtime whose clock the measure sets."""

    moment: datetime

    async def set_clock(self) -> datetime:
        self.clock.set(self.moment)
        return self.moment


class _Site:
    """A database in which ``breaks`` members break every day."""

    def __init__(self, bench: Bench, breaks: int) -> None:
        self._url = bench.migrated("ageing")
        given = settings_of(
            database_url=self._url,
            redis_url="redis://127.0.0.1:9/0",
            mx_url="http://127.0.0.1:9",
            retention_days=RETENTION_DAYS,
            link_days=LINK_DAYS,
        )
        self._settings = load_settings(_env_file=None, **{name.lower(): value for name, value in given.items()})
        self._age = age_of_deletion(
            RETENTION_DAYS, notice_days=self._settings.expiry_notice_days, caps=self._settings.message_caps
        )
        self._breaks = breaks
        fill_alike(self._url, _EVERY * breaks, status="CONNECTED")

    async def live(self) -> tuple[list[float], list[float], int]:
        """Run all days. For each day: MiB of our tables, and milliseconds of a sweep with nothing due. Also: how many reconnections there were."""

        async def nobody(_stage: str, _n: int) -> int:
            return 0

        began = datetime.now(UTC)
        sizes, sweeps = [], []
        runtime = _Aged(self._settings, wake=nobody)
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                for day in range(DAYS + 1):
                    runtime.moment = began + timedelta(days=day)
                    await self._day(runtime, connection, day)
                    sizes.append(self._size(connection) / 2**20)
                    sweeps.append(1e3 * median([await self._nothing_due(runtime) for _ in range(5)]))
                    print(f"  day {day}: {sizes[-1]:,.0f} MiB, {sweeps[-1]:,.0f} ms", flush=True)
                highest = connection.execute("SELECT max(id) FROM reconnections").fetchone()
        finally:
            await runtime.close()
        return sizes, sweeps, highest[0] if highest else 0

    async def _day(self, runtime: _Aged, connection: psycopg.Connection, day: int) -> None:
        """Members break, are told and come back. Then sweep until no row is old enough to be deleted."""
        among = {"first": day % _EVERY * self._breaks, "step": 1, "count": self._breaks}
        now = runtime.moment
        set_status(connection, "DENIED", **among)
        await self._sweep(runtime, opens=self._breaks)
        given = {"now": now, "reminder": now + timedelta(days=3), "link_ends": now + timedelta(days=LINK_DAYS)}
        for statement in _TOLD:
            connection.execute(statement, given)
        set_status(connection, "CONNECTED", **among)
        await self._sweep(runtime, closes=self._breaks)
        while self._has_more(connection, now - self._age):
            await self._sweep(runtime)

    async def _sweep(self, runtime: _Aged, *, opens: int = 0, closes: int = 0) -> None:
        report = await sweep(runtime)
        if report is None or (report.opened, report.closed) != (opens, closes):
            raise RuntimeError(f"the sweep did {report}")

    async def _nothing_due(self, runtime: _Aged) -> float:
        began = time.perf_counter()
        await self._sweep(runtime)
        return time.perf_counter() - began

    def _has_more(self, connection: psycopg.Connection, cut: datetime) -> bool:
        row = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM reconnections WHERE closed_at < %s) "
            "OR EXISTS (SELECT 1 FROM reconciliations WHERE finished_at IS NULL)",
            (cut,),
        ).fetchone()
        return row is not None and bool(row[0])

    def _size(self, connection: psycopg.Connection) -> int:
        tables = ", ".join(f"('{table}')" for table in (*WORK_TABLES, "changed_members"))
        row = connection.execute(
            f"SELECT sum(pg_total_relation_size(t::regclass)) FROM (VALUES {tables}) each(t)"
        ).fetchone()
        return int(row[0]) if row else 0


@contextmanager
def _quick_vacuum(bench: Bench) -> Iterator[None]:
    with psycopg.connect(bench.postgres.uri, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            connection.execute("ALTER SYSTEM RESET autovacuum_naptime")
            connection.execute("SELECT pg_reload_conf()")


def ageing(bench: Bench) -> None:
    """Measure thirty days."""
    breaks = bench.form.breaks_a_day
    with _quick_vacuum(bench):
        sizes, sweeps, opened = asyncio.run(_Site(bench, breaks).live())
    for what, unit, values, at_most in (
        ("disk of what the worker owns", "MiB", sizes, 1.1),
        ("a sweep with nothing due", "ms", sweeps, 1.3),
    ):
        first, last = (median(values[day] for day in days) for days in (_FIRST, _LAST))
        bench.add(
            Row(
                what=f"{what}: days {_LAST[0]} to {_LAST[-1]} ÷ days {_FIRST[0]} to {_FIRST[-1]}, {breaks:,} breaks a day",
                value=last / first,
                at_most=at_most,
                detail=f"{last:,.0f} against {first:,.0f} {unit}, the most {max(values):,.0f}; {opened:,} reconnections in all, "
                f"what ended is deleted after {RETENTION_DAYS + 9} days",
            )
        )
    bench.results.curves.append(
        Curve(
            name="ageing",
            title=f"{breaks:,} breaks a day, deleted after {RETENTION_DAYS + 9} days",
            x="days",
            y="MiB on disk; ms of a sweep with nothing due",
            lines={"disk": list(enumerate(sizes)), "a sweep": list(enumerate(sweeps))},
        )
    )
    bench.postgres.drop("ageing")
