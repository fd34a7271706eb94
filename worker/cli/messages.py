"""`preview`, `bounces`, `optout`: what people are sent, what came back, and who wants no more of it."""

import os
import tempfile
import webbrowser
from dataclasses import asdict
from pathlib import Path

import typer

from worker.cli.session import AsJson, aside, out, print_json, run
from worker.errors import UsageError, WorkerError
from worker.mx.identifiers import is_user_guid
from worker.plain_text import ISOLATES, plain
from worker.policy.channel_choice import EMAIL, PUSH_KINDS
from worker.runtime import Runtime
from worker.store.addresses import AddressStore


def add_to(app: typer.Typer) -> None:
    app.command()(preview)
    app.command()(bounces)
    app.command()(optout)


def preview(
    user: str = typer.Option(..., "--user", metavar="USR-…", help="Whose message."),
    *,
    channel: str | None = typer.Option(
        None, "--channel", help=f"{', '.join((EMAIL, *PUSH_KINDS))}; default: the one that would be taken."
    ),
    html: Path | None = typer.Option(None, "--html", metavar="FILE", help="Write the HTML of a mail here."),
    open_it: bool = typer.Option(False, "--open", help="Show the HTML of a mail in a browser."),
    as_json: bool = AsJson,
) -> None:
    """Show exactly what a user would be sent; asks nothing of MX and sends nothing."""
    _check_guid(user)
    if channel is not None and channel not in (EMAIL, *PUSH_KINDS):
        raise UsageError(f"{channel[:60]!r} is none of {', '.join((EMAIL, *PUSH_KINDS))}")
    from worker.cli.previewing import preview as picture

    shown = run(lambda runtime: picture(runtime, user, channel))
    for note in shown.notes:
        aside.print(note)
    if as_json:
        print_json({"user_guid": user, **asdict(shown)})
    else:
        heads = (("From", shown.sender), ("To", shown.recipient), ("Subject", shown.subject))
        for name, value in heads:
            if value is not None:
                typer.echo(f"{name}: {plain(value, keep=ISOLATES)}")
        typer.echo(f"\n{plain(shown.text, keep=ISOLATES + chr(10))}")
    if html is None and not open_it:
        return
    if shown.html is None:
        raise UsageError(f"a message by {shown.channel} has no HTML; see --channel {EMAIL}")
    file = _write(shown.html, html)
    if open_it and not webbrowser.open(file.resolve().as_uri()):
        raise WorkerError(f"preview: no browser was found; open {file} yourself")


def _write(html: str, file: Path | None) -> Path:
    """Readable by its owner alone: links may be real."""
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
    """Take in delivery reports: addresses that do not exist are written to no more. May be run again on the same mails."""
    from worker.cli.bouncing import SAYS, read, take_in

    reports, counts = read(path)
    found = run(lambda runtime: take_in(runtime, reports, counts))
    if as_json:
        print_json(found)
        return
    out.print(
        f"Read {found['mails']} mails: {found['other_mails']} are no delivery reports, the others speak of "
        f"{found['reports']} recipients."
    )
    for name, says in SAYS.items():
        if found[name]:
            out.print(f"  {found[name]:>6}  {says}")
    for guid, why in found["suppressed_why"].items():
        out.print(f"          {guid}: {why}", markup=False)


def optout(
    users: list[str] = typer.Argument(..., metavar="USR-…"),
    *,
    undo: bool = typer.Option(False, "--undo", help="They want messages again."),
    as_json: bool = AsJson,
) -> None:
    """Write to a user no more, on any channel."""
    for user in users:
        _check_guid(user)

    async def job(runtime: Runtime) -> set[str]:
        store = AddressStore(runtime.database)
        return await store.opt_in(users) if undo else await store.opt_out(users, now=await runtime.set_clock())

    known = run(job)
    missing = [user for user in dict.fromkeys(users) if user not in known]
    if as_json:
        print_json({"opted_in" if undo else "opted_out": sorted(known), "unknown": missing})
    for user in sorted(known) if not as_json else ():
        out.print(f"{user} is written to {'again' if undo else 'no more'}.")
    if missing:
        raise WorkerError(f"not in the database: {', '.join(missing)}")


def _check_guid(user: str) -> None:
    if not is_user_guid(user):
        raise UsageError(f"{user[:60]!r} is no user GUID; it starts with USR-")
