"""`import`, `institutions`: users and members from a file, and how long consents last."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import typer

from worker.cli.meaning import may_use_own_ids
from worker.cli.session import AsJson, aside, out, print_json, run_on_database
from worker.intake import (
    STDIN,
    ColumnBatch,
    Note,
    Problem,
    Row,
    display_name,
    is_of_institutions,
    read_institutions,
    slices,
)
from worker.store import first_load
from worker.store.importing import Columns, ImportStore
from worker.store.institutions import InstitutionStore
from worker.store.sql.database import Database


def add_to(app: typer.Typer) -> None:
    app.command(name="import")(import_file)
    app.command()(institutions)


def import_file(
    file: Path = typer.Argument(
        ...,
        metavar="FILE",
        help="CSV (commas, semicolons or tabs), JSON Lines, or a JSON array of objects; - for standard input.",
    ),
    *,
    dry_run: bool = typer.Option(False, "--dry-run", help="Read and check everything, write nothing."),
    as_json: bool = AsJson,
) -> None:
    """Upsert users and members; bad rows are reported by line and leave the rest untouched."""
    if is_of_institutions(file):
        aside.print(
            f"{display_name(file)}: it has institutions and their consent_days, as `reconnect institutions` takes them"
        )
        institutions(file, dry_run=dry_run, as_json=as_json)
        return
    if dry_run:
        reading = _Reading(file, own_ids=may_use_own_ids())
        for _ in reading.slices(first_load.SLICE):
            pass
        accepted, refused = reading.accepted, reading.refused
    else:
        accepted, refused = run_on_database(lambda database: import_into(database, file, own_ids=may_use_own_ids()))
    if as_json:
        print_json(
            {"imported": 0 if dry_run else accepted, "refused": refused}
            | ({"would_import": accepted} if dry_run else {})
        )
    else:
        summary = f"Would import {accepted} rows, and wrote nothing" if dry_run else f"Imported {accepted} rows"
        out.print(summary + (f", refused {refused} (named above)." if refused else "."))
    if refused:
        raise typer.Exit(1)


def institutions(
    file: Path = typer.Argument(
        ..., metavar="FILE", help="CSV or JSON Lines with institution_code and consent_days; - for standard input."
    ),
    *,
    dry_run: bool = typer.Option(False, "--dry-run", help="Read and check everything, write nothing."),
    as_json: bool = AsJson,
) -> None:
    """Upsert for how many days a customer's consent lasts at each institution; the next sweeps reckon the expiries."""
    consent_days: dict[str, int | None] = {}
    accepted = refused = 0
    for item in read_institutions(file):
        if isinstance(item, Row):
            accepted += 1
            consent_days[item.values["institution_code"]] = item.values["consent_days"]
        else:
            refused += isinstance(item, Problem)
            aside.print(f"{display_name(file)}: {item}")
    if consent_days and not dry_run:

        async def write(database: Database) -> None:
            await InstitutionStore(database).upsert(consent_days.items())

        run_on_database(write)
    if as_json:
        print_json(
            {"imported": 0 if dry_run else accepted, "refused": refused}
            | ({"would_import": accepted} if dry_run else {})
        )
    else:
        summary = (
            f"Would import {accepted} institutions, and wrote nothing"
            if dry_run
            else f"Imported {accepted} institutions"
        )
        out.print(summary + (f", refused {refused} (named above)." if refused else "."))
    if refused:
        raise typer.Exit(1)


async def import_into(database: Database, file: Path, *, own_ids: bool = False) -> tuple[int, int]:
    """Import the good rows and print each bad one; returns how many rows were imported and refused."""
    reading = _Reading(file, own_ids=own_ids)
    # A first load can fail at the last row; then the file is read again. So the first load needs a file, not a pipe.
    if reading.may_be_repeated and await first_load.first_load(database, reading.slices(first_load.SLICE)):
        return reading.accepted, reading.refused
    store = ImportStore(database)
    batches = reading.slices(store.slice)
    batch = next(batches, None)
    while batch is not None:
        # Read the next rows while the database stores these.
        next_batch = asyncio.create_task(asyncio.to_thread(next, batches, None))
        await store.upsert(batch)
        batch = await next_batch
    return reading.accepted, reading.refused


class _Reading:
    """Reads a file, possibly twice, and prints each problem once."""

    def __init__(self, file: Path, *, own_ids: bool) -> None:
        self._file = file
        self._own_ids = own_ids
        self.may_be_repeated = file != STDIN and file.is_file()
        self._printed_to_line = 0
        self._notes: set[str] = set()
        self.accepted = self.refused = 0

    def slices(self, size: int) -> Iterator[Columns]:
        """The good rows from the beginning of the file, in batches of ``size``."""
        self.accepted = self.refused = 0
        for item in slices(self._file, size, own_ids=self._own_ids):
            match item:
                case ColumnBatch():
                    self.accepted += len(item)
                    yield item.columns
                case Problem():
                    self.refused += 1
                    if item.line > self._printed_to_line:
                        self._printed_to_line = item.line
                        self._print(item)
                case Note():
                    if item.text not in self._notes:
                        self._notes.add(item.text)
                        self._print(item)

    def _print(self, item: Problem | Note) -> None:
        aside.print(f"{display_name(self._file)}: {item}")
