"""`forget`: erases users, and all data about them."""

import sys
from typing import Any

import typer

from worker.cli.meaning import nearest_guid, users_meant
from worker.cli.session import AsJson, aside, out, print_json, run_on_database
from worker.errors import UsageError, WorkerError
from worker.store.sql.database import Database
from worker.store.transactions.forget import ForgetStore

_ELSEWHERE = "Not erased: your application's own tables and logs, backups, mails that were sent, what was told to EVENTS_URL, and the user at MX."


def add_to(app: typer.Typer) -> None:
    app.command()(forget)


def forget(
    users: list[str] = typer.Argument(
        ..., metavar="USR-…|ADDRESS…", help="Users, or an address: every user who has it."
    ),
    *,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    as_json: bool = AsJson,
) -> None:
    """Erase a user and all that is known of them, in every table. This cannot be undone."""
    erased, missing, unknown_addresses = run_on_database(lambda database: _erase(database, users, yes=yes))
    if as_json:
        unknown = [entry.partition(";")[0] for entry in missing]
        print_json({"forgotten": erased, "unknown": unknown, "unknown_addresses": unknown_addresses})
    else:
        for guid, rows in erased.items():
            out.print(f"{guid} is forgotten: {_listed(rows)}.")
    if erased:
        aside.print(_ELSEWHERE)
    if unknown_addresses:
        missing.append(f"{unknown_addresses} of the addresses" if len(users) > 1 else "a user with that address")
    if missing:
        raise WorkerError(f"not in the database: {', '.join(missing)}")


async def _erase(database: Database, words: list[str], *, yes: bool) -> tuple[dict[str, Any], list[str], int]:
    """How many rows were erased for each user, the users without any row, and how many addresses no user has."""
    guids_by_word = await users_meant(database, words)
    guids = list(dict.fromkeys(guid for word_guids in guids_by_word.values() for guid in word_guids))
    store = ForgetStore(database)
    known = {guid: rows for guid in guids if (rows := await store.count(guid))}
    missing = [guid + await nearest_guid(database, guid) for guid in guids if guid not in known]
    if known and not yes:
        _ask(known)
    erased = {guid: await store.forget(guid) for guid in known}
    return erased, missing, sum(not word_guids for word_guids in guids_by_word.values())


def _ask(known: dict[str, dict[str, int]]) -> None:
    if not sys.stdin.isatty():
        raise UsageError("forget: there is no terminal to ask on; with --yes it erases without asking")
    for guid, rows in known.items():
        aside.print(f"{guid}: {_listed(rows)}.")
    if not typer.confirm("Erase all of it? This cannot be undone.", err=True):
        raise WorkerError("forget: nothing was erased")


def _listed(rows: dict[str, int]) -> str:
    return ", ".join(f"{table} {number}" for table, number in rows.items())
