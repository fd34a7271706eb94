"""An import stores the values of the file, whether it writes batches through COPY or single rows."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from worker.cli.data import import_into

COLUMNS = (
    "user_guid", "member_guid", "institution_code", "institution_name", "connection_status", "is_oauth", "error_code",
    "token_expires_at", "email", "locale", "timezone", "channel", "device_kind", "device_address",
)  # fmt: skip
#: Several batches, and enough rows for COPY.
MANY = 20_700
NAMES = ("Alder & Sons", "a\\b", "\\NN", "\\.", 'say "hi", twice', "Örjan 銀行", "", "nulls", "x" * 200)


def row(number: int) -> dict[str, Any]:
    """A member whose cells contain text that a faulty CSV or COPY writer would change."""
    return {
        "user_guid": f"USR-{number // 2:06}",  # each user has two members
        "member_guid": f"MBR-{(number * 7919) % MANY:06}",
        "institution_code": f"bank\\{number % 7}",
        "institution_name": NAMES[number % len(NAMES)],
        "connection_status": ("DENIED", "connected", "6")[number % 3],
        "is_oauth": ("true", "false", "")[number % 3],
        "error_code": ("", "2004")[number % 2],
        "token_expires_at": ("", "2027-01-01T09:30:00+02:00", "2027-01-01 09:30:00.25")[number % 3],
        "email": f"person{number // 2}@mail.example",
        "locale": "fr-CA",
        "timezone": "Europe/Madrid",
        "channel": ("email", "push", "")[number // 2 % 3],
        "device_kind": ("", "fcm")[number % 5 == 0],
        "device_address": ("", f"token\\{number}")[number % 5 == 0],
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, COLUMNS)
        lines.writeheader()
        lines.writerows(rows)
    return path


async def stored(bench: Any, table: str, key: str, **where: str) -> list[dict[str, Any]]:
    condition = " AND ".join(f"{name} = :{name}" for name in where) or "true"
    async with bench.runtime.database.engine.connect() as connection:
        found = await connection.execute(text(f"SELECT * FROM {table} WHERE {condition} ORDER BY {key}"), where)
        return [dict(found._mapping) for found in found]


async def test_a_file_of_many_rows_is_stored_as_the_same_rows_one_by_one_are(bench_for: Any, tmp_path: Path) -> None:
    bench = await bench_for()
    rows = [row(number) for number in range(MANY)]
    defer = row(3) | {"institution_name": "the last row of a key wins", "email": "later@mail.example"}
    file = write(tmp_path / "many.csv", [*rows, defer])
    assert await import_into(bench.runtime.database, file) == (MANY + 1, 0)
    tables = {"users": "user_guid", "members": "member_guid", "devices": "device_kind, device_address"}
    at_once = {table: await stored(bench, table, key) for table, key in tables.items()}
    assert [len(found) for found in at_once.values()] == [MANY // 2, MANY, MANY // 5]

    async with bench.runtime.database.engine.begin() as connection:
        for table in tables:
            await connection.execute(text(f"DELETE FROM {table} WHERE {tables[table].split(',')[0]} IS NOT NULL"))
    for start in (0, 300):  # too few for COPY
        few = write(tmp_path / "few.csv", rows[start : start + 300])
        assert await import_into(bench.runtime.database, few) == (300, 0)
    one_by_one = {table: await stored(bench, table, key) for table, key in tables.items()}
    for table, found in one_by_one.items():
        assert found
        keys = tables[table].split(", ")
        expected = {tuple(r[k] for k in keys): {n: v for n, v in r.items() if n != "id"} for r in at_once[table]}
        for given in found:
            name = tuple(given[k] for k in keys)
            if name not in {("USR-000001",), ("MBR-003057",)}:  # in the file twice
                assert {n: v for n, v in given.items() if n != "id"} == expected[name]
    (twice,) = (r for r in at_once["members"] if r["institution_name"] == "the last row of a key wins")
    assert twice["member_guid"] == defer["member_guid"]
    assert next(r for r in at_once["users"] if r["user_guid"] == "USR-000001")["email"] == "later@mail.example"


async def test_bad_rows_among_many_are_named_by_line_and_leave_the_rest_untouched(
    bench_for: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = await bench_for()
    rows = [row(number) for number in range(1_000)]
    rows[10] |= {"token_expires_at": "soon"}
    rows[500] |= {"user_guid": ""}
    rows[998] |= {"device_kind": "fcm", "device_address": ""}
    assert await import_into(bench.runtime.database, write(tmp_path / "bad.csv", rows)) == (997, 3)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["line 12", "line 502", "line 1000"]
    assert len(await stored(bench, "members", "member_guid")) == 997


async def test_importing_many_again_writes_what_changed_and_keeps_what_the_file_does_not_have(
    bench_for: Any, tmp_path: Path
) -> None:
    bench = await bench_for()
    rows = [row(number) for number in range(1_000)]
    await import_into(bench.runtime.database, write(tmp_path / "a.csv", rows))
    if not bench.runtime.database.rows.is_sqlite:
        before = await versions(bench)
        await import_into(bench.runtime.database, tmp_path / "a.csv")
        assert await versions(bench) == before
    file = tmp_path / "b.jsonl"
    changed = [{"user_guid": r["user_guid"], "member_guid": r["member_guid"], "error_code": 2005} for r in rows]
    file.write_text("".join(json.dumps(r) + "\n" for r in changed), encoding="utf-8")
    assert await import_into(bench.runtime.database, file) == (1_000, 0)
    found = await stored(bench, "members", "member_guid")
    assert {r["error_code"] for r in found} == {2005}
    assert {r["connection_status"] for r in found} == {"DENIED", "CONNECTED"}


async def versions(bench: Any) -> list[Any]:
    """``xmin`` of each row: the transaction that wrote it last."""
    async with bench.runtime.database.engine.connect() as connection:
        found = await connection.execute(text("SELECT member_guid, xmin::text FROM members ORDER BY 1"))
        return [tuple(version) for version in found]
