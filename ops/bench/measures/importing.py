"""`reconnect import` against PostgreSQL's COPY of the same file into a bare table."""

import csv
import tempfile
import time
from pathlib import Path
from statistics import median

import psycopg

from ops.bench.bench import Bench
from ops.bench.population import institution, member_guid, user_guid
from ops.bench.processes import reconnect, settings_of
from ops.bench.results import in_turns, ratios, row_of

_COLUMNS = {
    "user_guid": "text", "member_guid": "text", "institution_code": "text", "institution_name": "text",
    "connection_status": "text", "is_oauth": "boolean", "error_code": "integer", "token_expires_at": "timestamptz",
    "token_revoked_at": "timestamptz", "email": "text", "locale": "text", "timezone": "text", "channel": "text",
}  # fmt: skip


def importing(bench: Bench) -> None:
    """Import into empty tables each time."""
    rows = bench.form.import_rows
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "members.csv"
        write_members(file, rows)
        found = in_turns(
            {"import": lambda: _import(bench, file, rows), "copy": lambda: _copy(bench, file)}, bench.form.import_rounds
        )
    bench.add(
        row_of(
            f"reconnect import of {rows:,} rows ÷ COPY into a bare table",
            ratios(found["import"], found["copy"]),
            at_most=5,
            detail=f"{median(found['import']):.1f} s ({median(found['import']) / rows * 1e6:.0f} µs a row, the command's start "
            f"included) against {median(found['copy']):.2f} s",
        )
    )


def write_members(file: Path, rows: int) -> None:
    """Write a file with ``rows`` members, each of another user; a tenth of them are broken."""
    with file.open("w", encoding="utf-8", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(_COLUMNS)
        for i in range(rows):
            status, expires = (
                ("DENIED", "") if i % 10 == 0 else ("CONNECTED", f"2027-01-{i % 28 + 1:02}T10:{i % 60:02}:00Z")
            )
            lines.writerow(
                (
                    user_guid(i), member_guid(i), institution(i), "MX Bank (OAuth)", status, "true", "", expires, "",
                    f"person{i}@mail.example", ("en-US", "es-MX", "fr-CA")[i % 3], "America/Denver", "email",
                )
            )  # fmt: skip


def _import(bench: Bench, file: Path, rows: int) -> float:
    url = bench.migrated("importing")
    given = settings_of(database_url=url, redis_url="redis://127.0.0.1:9/0", mx_url="http://127.0.0.1:9")
    began = time.monotonic()
    reconnect(given, "import", str(file))
    took = time.monotonic() - began
    with psycopg.connect(url) as connection:
        counts = connection.execute("SELECT (SELECT count(*) FROM members), (SELECT count(*) FROM users)").fetchone()
    if counts != (rows, rows):
        raise RuntimeError(f"the import brought {counts}")
    bench.postgres.drop("importing")
    return took


def _copy(bench: Bench, file: Path) -> float:
    url = bench.postgres.create("copying")
    with psycopg.connect(url, autocommit=True) as connection:
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        connection.execute(f"CREATE TABLE bare ({columns})")
        began = time.monotonic()
        with (
            file.open("rb") as source,
            connection.cursor().copy("COPY bare FROM STDIN (FORMAT csv, HEADER true)") as copy,
        ):
            while block := source.read(1 << 20):
                copy.write(block)
        took = time.monotonic() - began
    bench.postgres.drop("copying")
    return took
