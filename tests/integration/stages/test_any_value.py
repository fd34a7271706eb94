"""Applications may write anything into their columns: an odd value affects its own row at most."""

from typing import Any

from sqlalchemy import select, text

from worker.cli.explain import explanation
from worker.cli.previewing import preview
from worker.cli.status import overview
from worker.policy.selection import MemberFacts, classify
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.stages.verify import verify
from worker.store.queries.lookup import LookupStore
from worker.store.selection import FACTS, facts_of
from worker.store.sql.application import ApplicationMoment
from worker.store.sql.tables import devices, members, users

#: Values of every type of SQLite, which stores any type in any column.
FOR_SQLITE = [
    b"\xff\x00", b"2026-11-01", b"DENIED", -1, 7, 2**62, 1e30, 2.5, "yes", "abc", "", " ", "\t\n", "a\x00b", "\x00", "x" * 50_000,
    "\u202e\u0661\ufeff", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+01:00", "2026-09-31", "24:00", "now", "infinity", "-infinity",
    "../etc/passwd", "{}", "%s:x", "NOT UTF-8",
]  # fmt: skip
FOR_POSTGRESQL: dict[str, list[Any]] = {
    "timestamptz": [
        "infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "0001-01-01 00:00:00+14", "9999-12-31 23:59:59-14", "10000-01-01", "294276-12-31",
    ],
    "int": [-(2**31), 2**31 - 1],
    "varchar": ["", " ", "\t\n", "abc", "x", "\u202e\u0661\ufeff", "infinity", "../etc/passwd", "{}", "%s:x"],
    "boolean": [True],
}  # fmt: skip


def _kind(column: Any) -> str:
    name = type(column.type).__name__
    return {"ApplicationMoment": "timestamptz", "ApplicationInteger": "int", "ApplicationTruth": "boolean"}.get(
        name, "varchar"
    )


def _odd_rows(*, is_sqlite: bool) -> list[tuple[Any, Any]]:
    written = [
        column
        for table in (members, users, devices)
        for column in table.c
        if column.name not in {"id", "member_guid", "user_guid"}
    ]
    return [
        (column, value) for column in written for value in (FOR_SQLITE if is_sqlite else FOR_POSTGRESQL[_kind(column)])
    ]


async def _write(connection: Any, table: Any, row: dict[str, Any], *, is_sqlite: bool) -> None:
    concurrency = []
    for name, value in row.items():
        if value == "NOT UTF-8":
            concurrency.append("CAST(X'fffe41' AS TEXT)")
        elif not is_sqlite and isinstance(table.c[name].type, ApplicationMoment):
            concurrency.append(f"CAST(:{name} AS timestamptz)")
        else:
            concurrency.append(f":{name}")
    await connection.execute(
        text(f"INSERT INTO {table.name} ({', '.join(row)}) VALUES ({', '.join(concurrency)})"), row
    )


async def _facts(bench: Any) -> dict[str, MemberFacts]:
    """Every member's facts, as `explain` reads them, in one statement."""
    async with bench.runtime.database.engine.connect() as connection:
        rows = await connection.execute(select(members.c.member_guid, *FACTS))
        return {guid: facts_of(facts) for guid, *facts in rows}


async def test_no_value_in_any_column_stops_those_beside_it(bench_for: Any, sandbox_for: Any) -> None:
    names = {"healthy": ["ok"]} | {f"odd-{n}": ["ok"] for n in range(1_000)}  # one for each row below
    async with sandbox_for(names) as sandbox:
        bench = await bench_for(**sandbox.settings, expiry_notice_days="7,2")
        is_sqlite = bench.runtime.database.rows.is_sqlite
        odd = _odd_rows(is_sqlite=is_sqlite)
        async with bench.runtime.database.engine.begin() as connection:
            for n, (column, value) in enumerate(odd):
                rows: dict[Any, dict[str, Any]] = {
                    users: {"user_guid": f"USR-odd-{n}", "email": f"odd-{n}@mail.example"},
                    members: {
                        "member_guid": f"MBR-odd-{n}",
                        "user_guid": f"USR-odd-{n}",
                        "connection_status": "DENIED",
                    },
                    devices: {"user_guid": f"USR-odd-{n}", "device_kind": "fcm", "device_address": f"token-{n}"},
                }
                rows[column.table][column.name] = value
                for table, row in rows.items():
                    # Only a user whose odd value is in a column of `devices` gets a device.
                    if table is not devices or column.table is devices:
                        await _write(connection, table, row, is_sqlite=is_sqlite)
            if is_sqlite:
                for n, guid in enumerate((b"MBR-\xff", "MBR-\x00", "NOT UTF-8", "MBR- " * 100)):
                    await _write(
                        connection,
                        members,
                        {"member_guid": guid, "user_guid": "USR-odd-1", "connection_status": "DENIED"},
                        is_sqlite=True,
                    )
                    await _write(
                        connection,
                        members,
                        {"member_guid": f"MBR-of-{n}", "user_guid": guid, "connection_status": "DENIED"},
                        is_sqlite=True,
                    )
        await bench.member("healthy", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        await bench.sql("UPDATE reconnections SET next_check_at = :at", at=bench.stored(bench.runtime.clock.now()))
        await verify(bench.runtime)
        await sweep(bench.runtime)
        assert (await bench.states())["MBR-healthy"] == "notified"
        # A member is told as usual if its odd value is in a column that the rule does not read.
        by_column = {n: column.name for n, (column, _) in enumerate(odd)}
        unmoved = {
            "locale",
            "institution_name",
            "institution_code",
            "error_code",
            "device_kind",
            "device_address",
            "disabled_at",
            "refused_email",
        }
        states = await bench.states()
        assert {states[f"MBR-odd-{n}"] for n, name in by_column.items() if name in unmoved} == {"notified"}
        # `explain` calls a member broken exactly if the sweep opened a reconnection for it.
        facts = await _facts(bench)
        for n in range(len(odd)):
            verdict = classify(facts[f"MBR-odd-{n}"], statuses=("DENIED",), now=bench.runtime.clock.now())
            assert verdict.broken == (f"MBR-odd-{n}" in states), (odd[n], verdict)
        # Every 23rd row. 23 does not divide the number of values, so these rows cover different values in different columns.
        for n in range(0, len(odd), 23):
            await preview(bench.runtime, f"USR-odd-{n}", None)
            await explanation(bench.runtime, f"MBR-odd-{n}")
        await overview(bench.runtime)
        lookup = LookupStore(bench.runtime.database)
        assert all(isinstance(code, str) for code in await lookup.institutions())
        for guid in ("MBR-odd-1x", "USR-odd-1x", "MBR-\xff", "MBR-"):
            assert all(isinstance(near, str) for near in await lookup.neighbours(guid))
