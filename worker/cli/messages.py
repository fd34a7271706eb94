"""`preview`, `bounces`, `optout`: messages as users get them, delivery reports, and users who want no messages."""

import os
import tempfile
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from worker.channels import registry
from worker.cli.meaning import did_you_mean, nearest_guid, users_meant
from worker.cli.session import AsJson, aside, out, print_json, run
from worker.errors import UsageError, WorkerError
from worker.plain_text import ISOLATES, plain
from worker.policy.channel_choice import EMAIL
from worker.runtime import Runtime
from worker.store.addresses import AddressStore

if TYPE_CHECKING:  # a slow import that only `preview` needs
    from worker.cli.previewing import Preview


def add_to(app: typer.Typer) -> None:
    app.command()(preview)
    app.command()(bounces)
    app.command()(optout)


def preview(
    user: str = typer.Option(..., "--user", metavar="USR-…|ADDRESS", help="Whose message."),
    *,
    channel: str | None = typer.Option(
        None, "--channel", help=f"{', '.join(registry.names())}; default: the one that the worker would use."
    ),
    html: Path | None = typer.Option(None, "--html", metavar="FILE", help="Write the HTML of a mail here."),
    open_it: bool = typer.Option(False, "--open", help="Show the HTML of a mail in a browser."),
    as_json: bool = AsJson,
) -> None:
    """Show exactly what a user would be sent; nothing is sent, and MX is not asked."""
    if channel is not None and channel not in (kinds := registry.names()):
        raise UsageError(f"{channel[:60]!r} is none of {', '.join(kinds)}{did_you_mean(channel, kinds)}")
    guid, message = run(lambda runtime: _build_preview(runtime, user, channel))
    for note in message.notes:
        aside.print(note)
    if as_json:
        print_json({"user_guid": guid, **asdict(message)})
    else:
        heads = (("From", message.sender), ("To", message.recipient), ("Subject", message.subject))
        for name, value in heads:
            if value is not None:
                typer.echo(f"{name}: {plain(value, keep=ISOLATES)}")
        typer.echo(f"\n{plain(message.text, keep=ISOLATES + chr(10))}")
    if html is None and not open_it:
        return
    if message.html is None:
        raise UsageError(f"a message by {message.channel} has no HTML; see --channel {EMAIL}")
    file = _write(message.html, html)
    if open_it and not webbrowser.open(file.resolve().as_uri()):
        raise WorkerError(f"preview: no browser was found; open {file} yourself")


async def _build_preview(runtime: Runtime, user: str, channel: str | None) -> "tuple[str, Preview]":
    from worker.cli.previewing import preview as preview_of

    (guids,) = (await users_meant(runtime.database, [user])).values()
    if not guids:
        raise WorkerError("preview: no user has that address")
    if len(guids) > 1:
        raise WorkerError(f"preview: {len(guids)} users have that address, say which: {', '.join(guids[:10])}")
    return guids[0], await preview_of(runtime, guids[0], channel)


def _write(html: str, file: Path | None) -> Path:
    """Write a file that only its owner can read: the links in it may be real."""
    try:
        if file is None:
            descriptor, name = tempfile.mkstemp(prefix="preview-", suffix=".html")
            file = Path(name)
        else:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as target:
            target.write(html)
    except OSError as error:
        raise UsageError(f"preview: {file or 'the temporary folder'}: {error.strerror}") from None
    aside.print(f"Wrote {file}, readable by you alone.")
    return file


def bounces(
    path: Path = typer.Argument(..., metavar="PATH", help="A maildir, a folder of mails, a mail, or an mbox."),
    *,
    as_json: bool = AsJson,
) -> None:
    """Read delivery reports: addresses that do not exist get no more mail. May be run again on the same mails."""
    from worker.cli.bouncing import LABELS, read, take_in

    reports, counts = read(path)
    figures = run(lambda runtime: take_in(runtime, reports, counts))
    if as_json:
        print_json(figures)
        return
    out.print(
        f"Read {figures['mails']} mails: {figures['other_mails']} are no delivery reports, the others report on "
        f"{figures['reports']} recipients."
    )
    for name, label in LABELS.items():
        if figures[name]:
            out.print(f"  {figures[name]:>6}  {label}")
    for guid, why in figures["suppressed_why"].items():
        out.print(f"          {guid}: {why}", markup=False)


def optout(
    users: list[str] = typer.Argument(
        ..., metavar="USR-…|ADDRESS…", help="Users, or the address that a reply came from."
    ),
    *,
    undo: bool = typer.Option(False, "--undo", help="They want messages again."),
    as_json: bool = AsJson,
) -> None:
    """Send a user no more messages on any channel; an address means every user who has it."""

    async def job(runtime: Runtime) -> tuple[set[str], list[str], int]:
        guids_by_word = await users_meant(runtime.database, users)
        guids = list(dict.fromkeys(guid for word_guids in guids_by_word.values() for guid in word_guids))
        store = AddressStore(runtime.database)
        known = await store.opt_in(guids) if undo else await store.opt_out(guids, now=await runtime.set_clock())
        missing = [guid + await nearest_guid(runtime.database, guid) for guid in guids if guid not in known]
        return known, missing, sum(not word_guids for word_guids in guids_by_word.values())

    known, missing, unknown_addresses = run(job)
    if as_json:
        unknown = [entry.partition(";")[0] for entry in missing]
        print_json(
            {
                "opted_in" if undo else "opted_out": sorted(known),
                "unknown": unknown,
                "unknown_addresses": unknown_addresses,
            }
        )
    for user in sorted(known) if not as_json else ():
        out.print(f"{user} gets messages again." if undo else f"{user} gets no more messages.")
    if unknown_addresses:
        missing.append(f"{unknown_addresses} of the addresses" if len(users) > 1 else "a user with that address")
    if missing:
        raise WorkerError(f"not in the database: {', '.join(missing)}")
