"""The first load: while PostgreSQL has no members, an import loads all rows at once. If that fails, nothing is changed by it."""

import asyncio
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from worker.cli.data import import_into
from worker.errors import DatabaseUnavailable
from worker.intake import Problem, columns, slices
from worker.store import first_load as loading
from worker.store.first_load import SLICE, first_load

#: More rows than an import reads before it chooses the first load: with slices of a tenth, and with slices of the usual length.
MANY = 2_250
REALLY_MANY = 22_500

SCHEMA = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid, indisready, indisprimary, indisunique FROM pg_index
WHERE indrelid IN ('users'::regclass, 'members'::regclass, 'devices'::regclass)
UNION ALL SELECT conname, pg_get_constraintdef(oid), convalidated, true, true, true FROM pg_constraint
WHERE conrelid IN ('users'::regclass, 'members'::regclass, 'devices'::regclass)
UNION ALL SELECT attname, attrelid::regclass::text, attnotnull, true, true, true FROM pg_attribute
WHERE attnum > 0 AND attrelid IN ('users'::regclass, 'members'::regclass, 'devices'::regclass)
ORDER BY 1, 2"""

Rows = list[dict[str, Any]]


@pytest.fixture
def database_url(postgres: Any) -> str:
    """PostgreSQL alone: SQLite has no first load."""
    return str(postgres.database())


@pytest.fixture(autouse=True)
def _short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SLICE", SLICE // 10)
    monkeypatch.setattr(columns, "_BLOCK", columns._BLOCK // 10)


def rows_of(count: int = MANY, **more: Callable[[int], str]) -> Rows:
    return [
        {
            "user_guid": f"USR-{number * 7919 % 100_003:06}",
            "member_guid": f"MBR-{number * 104_729 % 100_003:06}",
            "institution_name": ("Alder & Sons", "a\\b", "\\NN", "Örjan 銀行", "")[number % 5],
            "connection_status": ("DENIED", "CONNECTED", "")[number % 3],
            "token_expires_at": ("", "2027-01-01T09:30:00+02:00")[number % 2],
            "email": f"person{number}@mail.example",
        }
        | {name: value(number) for name, value in more.items()}
        for number in range(count)
    ]


def write(path: Path, rows: Rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)
    return path


async def load(bench: Any, file: Path) -> bool:
    """Load the file at once; return whether that was possible."""
    parts = (item.columns for item in slices(file, loading.SLICE) if not isinstance(item, Problem))
    return await first_load(bench.runtime.database, parts)


async def stored(bench: Any, table: str) -> list[Any]:
    return [tuple(row) for row in await bench.sql(f"SELECT * FROM {table} ORDER BY 1, 2")]


async def test_a_first_file_is_loaded_as_any_import_would_write_it_and_every_index_is_there_again(
    bench_for: Any, postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    bench, other = await bench_for(), await bench_for(database_url=postgres.database())
    rows = rows_of(
        REALLY_MANY, device_kind=lambda n: ("", "fcm")[n % 2], device_address=lambda n: ("", f"token\\{n // 4}")[n % 2]
    )
    before = await bench.sql(SCHEMA)
    assert await load(bench, write(tmp_path / "all.csv", rows))
    assert await bench.sql(SCHEMA) == before
    for start in range(0, REALLY_MANY, 15_000):  # too few rows for a first load
        part = write(tmp_path / "part.csv", rows[start : start + 15_000])
        assert not await load(other, part)
        assert await import_into(other.runtime.database, part) == (min(15_000, REALLY_MANY - start), 0)
    for table in ("users", "members"):
        assert await stored(bench, table) == await stored(other, table)
    held = "SELECT user_guid, device_kind, device_address FROM devices ORDER BY 3"
    assert await bench.sql(held) == await other.sql(held)
    assert len(await bench.sql(held)) == REALLY_MANY // 4
    assert await bench.sql("SELECT 1 FROM members WHERE user_guid = :u", u=rows[5]["user_guid"]) == [(1,)]


async def test_users_with_several_members_are_merged_and_the_last_row_wins(bench_for: Any, tmp_path: Path) -> None:
    bench = await bench_for()
    await bench.sql("INSERT INTO users (user_guid, email, locale) VALUES ('USR-000001', 'old@mail.example', 'fr-CA')")
    rows = rows_of(user_guid=lambda n: f"USR-{n % 900:06}")
    assert await load(bench, write(tmp_path / "all.csv", rows))
    emails = {row["user_guid"]: row["email"] for row in rows}
    assert dict(await bench.sql("SELECT user_guid, email FROM users")) == emails
    assert await bench.one("SELECT locale FROM users WHERE user_guid = 'USR-000001'") == "fr-CA"
    assert await bench.one("SELECT count(*) FROM members") == MANY


async def test_users_that_are_known_already_are_merged_with(bench_for: Any, tmp_path: Path) -> None:
    bench = await bench_for()
    rows = rows_of()
    user = rows[2_100]["user_guid"]
    await bench.sql("INSERT INTO users (user_guid, email, locale) VALUES (:u, 'old@mail.example', 'fr-CA')", u=user)
    assert await load(bench, write(tmp_path / "all.csv", rows))
    found = await bench.sql("SELECT email, locale FROM users WHERE user_guid = :u", u=user)
    assert found == [("person2100@mail.example", "fr-CA")]


@pytest.mark.parametrize(
    "in_the_way",
    [
        "INSERT INTO members (member_guid, user_guid) VALUES ('MBR-there', 'USR-there')",
        "CREATE TABLE theirs (member_guid text REFERENCES members)",
        "CREATE VIEW theirs AS SELECT member_guid, institution_name FROM members GROUP BY member_guid",
        "ALTER TABLE members RENAME CONSTRAINT pk_members TO theirs",
        "CREATE TABLE theirs (user_guid text REFERENCES users)",
        "ALTER TABLE members ADD CHECK (member_guid <> 'MBR-WRONG' OR false), ADD CONSTRAINT own UNIQUE (institution_name)",
    ],
)
async def test_what_is_in_the_way_leaves_everything_as_it_was_and_the_ordinary_way_goes_on(
    bench_for: Any, tmp_path: Path, in_the_way: str
) -> None:
    bench = await bench_for()
    await bench.sql(in_the_way)
    unique = {"institution_name": lambda n: f"Bank {n}"} if "UNIQUE" in in_the_way else {}
    there, before = await bench.one("SELECT count(*) FROM members"), await bench.sql(SCHEMA)
    rows = rows_of(**unique)
    file = write(tmp_path / "all.csv", rows)
    loaded = await load(bench, file)
    assert loaded == bool(unique)  # an index of the application does not prevent the load
    assert await bench.sql(SCHEMA) == before
    assert await bench.one("SELECT count(*) FROM members") == (MANY if loaded else there)
    assert await import_into(bench.runtime.database, file) == (MANY, 0)
    assert await bench.one("SELECT count(*) FROM members") == MANY + there
    assert await bench.one("SELECT count(*) FROM users") == MANY
    assert await bench.sql(SCHEMA) == before


@pytest.mark.parametrize("key", ["member_guid", "user_guid"])
async def test_a_key_that_comes_twice_far_apart_is_written_as_its_last_row_says(
    bench_for: Any, tmp_path: Path, key: str
) -> None:
    bench = await bench_for()
    rows = rows_of()
    rows[-1] |= {key: rows[0][key], "institution_name": "the last row"}
    file = write(tmp_path / "all.csv", rows)
    assert not await load(bench, file)
    assert await bench.one("SELECT (SELECT count(*) FROM members) + (SELECT count(*) FROM users)") == 0
    assert await import_into(bench.runtime.database, file) == (MANY, 0)
    assert len(await stored(bench, "members")) == len({row["member_guid"] for row in rows})
    assert len(await stored(bench, "users")) == len({row["user_guid"] for row in rows})
    name = "SELECT institution_name FROM members WHERE member_guid = :m"
    assert await bench.one(name, m=rows[-1]["member_guid"]) == "the last row"


async def test_what_the_database_refuses_in_the_midst_of_a_load_leaves_everything_as_it_was(
    bench_for: Any, tmp_path: Path
) -> None:
    bench = await bench_for()
    await bench.sql("ALTER TABLE members ADD CONSTRAINT own CHECK (member_guid <> 'MBR-wrong')")
    before = await bench.sql(SCHEMA)
    rows = rows_of()
    rows[-200] |= {"member_guid": "MBR-wrong"}
    file = write(tmp_path / "all.csv", rows)
    assert not await load(bench, file)
    with pytest.raises(DatabaseUnavailable):
        await import_into(bench.runtime.database, file)
    assert await bench.sql(SCHEMA) == before
    await bench.sql("ALTER TABLE members DROP CONSTRAINT own")
    assert await import_into(bench.runtime.database, file) == (MANY, 0)


async def test_rows_with_other_columns_go_the_ordinary_way(bench_for: Any, tmp_path: Path) -> None:
    bench = await bench_for()
    rows = rows_of()
    del rows[-1]["email"]
    file = tmp_path / "all.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert not await load(bench, file)
    assert await import_into(bench.runtime.database, file) == (MANY, 0)
    assert await bench.one("SELECT count(*) FROM members") == MANY


@pytest.mark.parametrize(
    "held",
    [
        "INSERT INTO members (member_guid, user_guid) VALUES ('MBR-theirs', 'USR-theirs')",
        "INSERT INTO users (user_guid) VALUES ('USR-theirs')",
        "SELECT * FROM members",
    ],
)
async def test_an_application_that_is_at_work_on_the_tables_goes_first(
    bench_for: Any, database_url: str, tmp_path: Path, held: str
) -> None:
    bench = await bench_for()
    file = write(tmp_path / "all.csv", rows_of())
    with psycopg.connect(database_url) as application:
        application.execute(held)
        assert not await load(bench, file)
        assert await import_into(bench.runtime.database, file) == (MANY, 0)
        # The application waits at most for the moment in which the import tries to lock the table.
        application.execute("INSERT INTO members (member_guid, user_guid) VALUES ('MBR-later', 'USR-later')")
    assert await bench.one("SELECT count(*) FROM members WHERE member_guid = 'MBR-later'") == 1
    assert await bench.one("SELECT count(*) FROM members WHERE member_guid <> 'MBR-theirs'") == MANY + 1


async def test_a_role_that_does_not_own_the_tables_can_import_all_the_same(
    bench_for: Any, database_url: str, tmp_path: Path
) -> None:
    bench = await bench_for()
    await bench.sql("DROP ROLE IF EXISTS importer")
    await bench.sql("CREATE ROLE importer LOGIN")
    await bench.sql("GRANT SELECT, INSERT, UPDATE ON users, members, devices TO importer")
    try:
        other = await bench_for(database_url=database_url.replace("postgres:", "importer:", 1))
        file = write(tmp_path / "all.csv", rows_of())
        assert not await load(other, file)
        assert await import_into(other.runtime.database, file) == (MANY, 0)
        assert await bench.one("SELECT count(*) FROM members") == MANY
    finally:
        await bench.sql("DROP OWNED BY importer")
        await bench.sql("DROP ROLE importer")


async def test_a_problem_is_named_once_although_the_file_was_read_twice(
    bench_for: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = await bench_for()
    rows = rows_of()
    rows[10] |= {"email": "nonsense"}
    rows[2_190] |= {"token_expires_at": "soon"}
    rows[-1] |= {"member_guid": rows[0]["member_guid"]}
    rows[-2] |= {"member_guid": ""}
    assert await import_into(bench.runtime.database, write(tmp_path / "all.csv", rows)) == (MANY - 3, 3)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["line 12", "line 2192", f"line {MANY}"]


async def test_two_imports_at_once_both_come_to_their_end(bench_for: Any, tmp_path: Path) -> None:
    one, two = await bench_for(), await bench_for()
    rows = rows_of()
    first, second = write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", rows[::-1])
    async with asyncio.timeout(60):
        done = await asyncio.gather(import_into(one.runtime.database, first), import_into(two.runtime.database, second))
    assert done == [(MANY, 0), (MANY, 0)]
    assert await one.one("SELECT count(*) FROM members") == MANY
    assert await one.one("SELECT count(*) FROM users") == MANY
