"""`import`: users and members from a file."""

import asyncio
from itertools import groupby, islice
from pathlib import Path

import typer

from worker.cli.session import AsJson, aside, out, print_json, run
from worker.intake import Problem, Row, read
from worker.runtime import Runtime
from worker.store.importing import ImportStore


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

    def read_on() -> list[Row | Problem]:
        return list(islice(items, store.slice))

    part = read_on()
    while part:
        # The next rows are read while the database takes these.
        following = asyncio.create_task(asyncio.to_thread(read_on))
        for item in part:
            if isinstance(item, Problem):
                refused += 1
                aside.print(f"{file.name}: {item}", markup=False)
        rows = [item.values for item in part if isinstance(item, Row)]
        # Rows of JSON Lines need not have the same keys; those that follow each other and do are written together.
        for _, alike in groupby(rows, key=lambda values: values.keys()):
            await store.upsert(list(alike))
        taken += len(rows)
        part = await following
    return taken, refused
