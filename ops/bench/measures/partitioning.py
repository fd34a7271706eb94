"""The gains and losses of declarative partitioning of `reconnections` by month on PostgreSQL. `docs/scale.md` has the conclusion."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from statistics import median

import psycopg

from ops.bench.bench import Bench
from ops.bench.population import fill_alike, fill_standing
from ops.bench.processes import settings_of
from ops.bench.results import Row
from worker.settings import load_settings
from worker.store.sql.database import Database, open_engine
from worker.store.transactions.retention import BATCH, RetentionStore

#: Months that are kept, as with ``RETENTION_DAYS=400``.
MONTHS = 13
#: The constraints that guarantee one open reconnection a member and one row an id today, tried on the partitioned table.
_RULES = {
    "one open reconnection a member": "CREATE UNIQUE INDEX ON parted (member_guid) WHERE closed_at IS NULL",
    "an id by which windows and messages refer to it": "ALTER TABLE parted ADD PRIMARY KEY (id)",
}


def partitioning(bench: Bench) -> None:
    """Delete a month of ended reconnections in batches and by dropping a partition; read a reconnection by its id in both."""
    ended = bench.form.standing[0][0]
    url = bench.migrated("partitioning")
    fill_alike(url, ended, status="CONNECTED")
    _row_size(bench, url, "members")
    fill_standing(url, ended=ended, waiting=0)
    _row_size(bench, url, "reconnections")
    with psycopg.connect(url, autocommit=True) as connection:
        _spread(connection)
        for rule, statement in _RULES.items():
            bench.add(Row(what=f"partitioned by month: {rule}", value=0, detail=_refusal(connection, statement)))
        whole, parted = (_lookup(connection, table) for table in ("reconnections", "parted"))
        bench.add(
            Row(
                what="a reconnection by its id, planned and read, in one table",
                value=median(whole),
                unit="ms",
                samples=whole,
            ),
            Row(what=f"the same in {MONTHS} partitions", value=median(parted), unit="ms", samples=parted),
        )
        oldest = connection.execute("SELECT count(*) FROM parted_0").fetchone()
        began = time.perf_counter()
        connection.execute("DROP TABLE parted_0")
        dropped = time.perf_counter() - began
        written = _wal(connection)
        deleted, took = asyncio.run(_retain(url))
        written = _wal(connection) - written
    bench.add(
        Row(
            what=f"the oldest month, {oldest[0] if oldest else 0:,} rows: its partition dropped",
            value=dropped * 1e3,
            unit="ms",
        ),
        Row(
            what=f"the oldest month, {deleted:,} rows: deleted by retention in batches of {BATCH}",
            value=took,
            unit="s",
            detail=f"{deleted / max(took, 1e-9):,.0f} rows/s, {written / max(deleted, 1):,.0f} bytes of WAL each",
        ),
    )
    bench.postgres.drop("partitioning")


def _row_size(bench: Bench, url: str, table: str) -> None:
    with psycopg.connect(url) as connection:
        bytes_ = connection.execute(f"SELECT pg_total_relation_size('{table}') / count(*) FROM {table}").fetchone()
    bench.add(Row(what=f"a row of {table} with its indexes", value=bytes_[0] if bytes_ else 0, unit="bytes"))


def _spread(connection: "psycopg.Connection") -> None:
    """Spread the ends of the reconnections over 13 months, and copy them into a table with a partition for each month."""
    connection.execute(
        "UPDATE reconnections SET closed_at = now() - (id %% %s) * interval '30 days' - interval '9 days', reopen_at = NULL",
        (MONTHS,),
    )
    connection.execute("VACUUM (FULL, ANALYZE) reconnections")
    connection.execute("CREATE TABLE parted (LIKE reconnections INCLUDING DEFAULTS) PARTITION BY RANGE (closed_at)")
    for month in range(MONTHS):
        first, last = (datetime.now(UTC) - timedelta(days=30 * (MONTHS - n)) for n in (month, month + 1))
        connection.execute(f"CREATE TABLE parted_{month} PARTITION OF parted FOR VALUES FROM ('{first}') TO ('{last}')")
        connection.execute(f"CREATE INDEX ON parted_{month} (id)")
    connection.execute("INSERT INTO parted SELECT * FROM reconnections")
    connection.execute("VACUUM ANALYZE parted")
    connection.execute("CHECKPOINT")


def _refusal(connection: "psycopg.Connection", statement: str) -> str:
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        return f"refused: {error.diag.message_primary}"
    return "accepted"


def _lookup(connection: "psycopg.Connection", table: str) -> list[float]:
    """Milliseconds to plan and read one reconnection. As in the worker, no statement is prepared."""
    took = []
    for id_ in range(1, 200):
        statement = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT * FROM {table} WHERE id = {id_}"
        (((plan,),)) = connection.execute(statement).fetchall()
        took.append(float(plan[0]["Planning Time"] + plan[0]["Execution Time"]))
    return took


def _wal(connection: "psycopg.Connection") -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    return int(row[0]) if row else 0


async def _retain(url: str) -> tuple[int, float]:
    """Delete the reconnections that ended in the oldest month, as a sweep does; return rows and seconds."""
    given = settings_of(database_url=url, redis_url="redis://127.0.0.1:9/0", mx_url="http://127.0.0.1:9")
    database = Database(
        open_engine(load_settings(_env_file=None, **{name.lower(): value for name, value in given.items()}))
    )
    store, now, deleted = database.store(RetentionStore), datetime.now(UTC), 0
    cut = now - timedelta(days=30 * (MONTHS - 1))
    while await store.count_a_day(now):
        pass
    began = time.perf_counter()
    while found := await store.delete_reconnections(cut, now):
        deleted += found
    took = time.perf_counter() - began
    await database.close()
    return deleted, took
