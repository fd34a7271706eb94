"""`import`: users and members from a file."""

from itertools import groupby, islice
from pathlib import Path
from typing import Any

import typer

from worker.cli.session import AsJson, aside, out, print_json, run
from worker.intake import DEVICE_COLUMNS, MEMBER_COLUMNS, USER_COLUMNS, Problem, Row, read
from worker.runtime import Runtime
from worker.store.importing import ImportStore

#: Rows written in one transaction.
BATCH = 1_000


def add_to(app: typer.Typer) -> None:
    app.command(name="import")(import_file)


def import_file(
    file: Path = typer.Argument(..., metavar="FILE", help="CSV, or JSON Lines (.jsonl, .ndjson, .json)."),
    *,
    as_json: bool = AsJson,
) -> None:
    """Upsert users and members; bad rows are reported by line and leave the rest untouched."""
    taken, refused = run(lambda runtime: import_rows(runtime, file))
    if as_json:
        print_json({"imported": taken, "refused": refused})
    else:
        out.print(f"Imported {taken} rows" + (f", refused {refused} (named above)." if refused else "."))
    if refused:
        raise typer.Exit(1)


async def import_rows(runtime: Runtime, file: Path) -> tuple[int, int]:
    """Write what can be taken and name what cannot; returns how many rows were taken and refused."""
    store, items, taken, refused = ImportStore(runtime.database), read(file), 0, 0
    while batch := list(islice(items, BATCH)):
        rows = [item for item in batch if isinstance(item, Row)]
        for item in batch:
            if isinstance(item, Problem):
                refused += 1
                aside.print(f"{file.name}: {item}", markup=False)
        # Rows of JSON Lines need not have the same keys; those that follow each other and do are written together.
        for _, alike in groupby(rows, key=lambda row: frozenset(row.values)):
            await _write(store, list(alike))
        taken += len(rows)
    return taken, refused


async def _write(store: ImportStore, rows: list[Row]) -> None:
    def columns(row: Row, *names: str) -> dict[str, Any]:
        return {name: row.values[name] for name in names if name in row.values}

    await store.upsert(
        user_rows=[columns(row, "user_guid", *USER_COLUMNS) for row in rows],
        member_rows=[columns(row, "member_guid", "user_guid", *MEMBER_COLUMNS) for row in rows],
        device_rows=[
            columns(row, "user_guid", *DEVICE_COLUMNS) for row in rows if row.values.get("device_address") is not None
        ],
    )
