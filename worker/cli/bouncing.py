"""`bounces`: reads delivery reports and suppresses the addresses that do not exist.

A report counts only if it returns the token of one of our mails (:mod:`worker.bounces.tracing`). A report without a token that names
the address of a user to whom we sent mail is counted as unproven: anyone who knows the address could have written it.
"""

import mailbox
from collections import Counter
from collections.abc import Iterator, Sequence
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from worker import bounces
from worker.bounces import LIMIT, BounceOutcome, Kind, Report, Unreadable, spec_of, spellings, trace
from worker.cli.session import aside
from worker.errors import UsageError
from worker.runtime import Runtime
from worker.store.addresses import AddressStore, MailUser

#: The text that the command prints beside each count.
LABELS = {
    "suppressed": "addresses suppressed: they do not exist",
    "suppressed_before": "were suppressed already",
    "not_theirs": "do not exist, but are not the user's address (any more): nothing to do",
    "mailbox_full": "mailboxes are full: they get messages again",
    "transient": "temporary delays and failures: they get messages again",
    "refused": "refused for another reason than the address: see your mail server",
    "delivered": "delivered after all",
    "complaints": "called a mail of ours spam (COMPLAINTS)",
    "opted_out": "opted out for that",
    "unproven": "look like ours, but return nothing of our mail: nobody is suppressed for them (see BOUNCE_ADDRESS)",
    "not_ours": "about mails that this worker did not send",
    "not_understood": "mails that look like bounces and were not understood: nothing was done",
    "auto_replies": "answers that a machine wrote: ignored",
    "unreadable": "mails that cannot be read",
}

_COUNTED_AS = {Kind.NOT_UNDERSTOOD: "not_understood", Kind.AUTO_REPLY: "auto_replies"}


def read(path: Path) -> tuple[list[Report], Counter[str]]:
    """All reports in a maildir, a folder of mails, a single mail or an mbox, and the counts of what was read."""
    reports: list[Report] = []
    counts: Counter[str] = Counter()
    for content in _mails(path):
        counts["mails"] += 1
        try:
            reading = bounces.read(content)
        except Unreadable:
            counts["unreadable"] += 1
            continue
        counts["reports"] += len(reading.reports)
        counts["other_mails"] += reading.kind is not Kind.REPORT
        if reading.kind in _COUNTED_AS:
            counts[_COUNTED_AS[reading.kind]] += 1
        reports += reading.reports
    return reports, counts


def _mails(path: Path) -> Iterator[bytes]:
    """The first ``LIMIT`` bytes of every mail in a file or folder."""
    try:
        if path.is_dir():
            for folder in [path / name for name in ("new", "cur") if (path / name).is_dir()] or [path]:
                for file in sorted(folder.iterdir()):
                    if file.is_file() and not file.name.startswith("."):
                        yield from _mails_of_file(file)
        elif path.is_file():
            yield from _mails_of_file(path)
        else:
            raise UsageError(f"bounces: {path}: there is no such folder or file")
    except OSError as error:
        raise UsageError(f"bounces: {path}: {error.strerror}") from None


def _mails_of_file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT)
        if content.startswith(b"From "):
            yield from _mails_of_mbox(path)
        else:
            yield content
    except OSError as error:
        aside.print(f"{path.name}: {error.strerror}")


def _mails_of_mbox(path: Path) -> Iterator[bytes]:
    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            yield box.get_file(key).read(LIMIT)
    finally:
        box.close()


async def take_in(runtime: Runtime, reports: Sequence[Report], counts: Counter[str]) -> dict[str, Any]:
    """Find the user of each report, suppress the addresses that do not exist, and return every count."""
    now = await runtime.set_clock()
    store = AddressStore(runtime.database)
    mails = await _trace(store, reports)
    users = await store.users({guid for _, guid in mails.values()})
    by_address = await _by_address(store, reports, spec_of(parseaddr(runtime.settings.email_from or "")[1]))
    refused: dict[str, tuple[MailUser, str]] = {}
    notes: list[tuple[int, str]] = []
    complainants: set[str] = set()
    unproven: set[str] = set()
    for report in reports:
        mail = next((mails[token] for token in report.tokens if token in mails), None)
        if mail is None:
            candidates = {guid for address in report.addresses for guid in by_address.get((address, report.sender), ())}
            counts["unproven" if candidates else "not_ours"] += 1
            unproven |= candidates
            continue
        user = users.get(mail[1])
        if report.outcome is BounceOutcome.COMPLAINT:
            counts["complaints"] += 1
            complainants.add(mail[1])
            notes.append((mail[0], "complaint"))
            continue
        if report.code.startswith("5"):
            notes.append((mail[0], f"bounced_{report.code}"))
        elif report.outcome is BounceOutcome.BAD_ADDRESS:
            notes.append((mail[0], "bounced"))
        if report.outcome is not BounceOutcome.BAD_ADDRESS:
            counts[report.outcome] += 1
        elif user is not None and _names_current_address(user, report):
            refused.setdefault(user.user_guid, (user, f"bounce: {report.evidence}"))
        else:
            counts["not_theirs"] += 1
    suppressed = await store.refuse(refused, bounced=notes, now=now)
    counts["suppressed"], counts["suppressed_before"] = len(suppressed), len(refused) - len(suppressed)
    if runtime.settings.complaints == "optout" and complainants:
        counts["opted_out"] = len(await store.opt_out(complainants, now=now))
    figures = {name: counts[name] for name in ("mails", "reports", "other_mails", *LABELS)}
    return {
        **figures,
        "suppressed_users": sorted(suppressed),
        "suppressed_why": {guid: refused[guid][1] for guid in sorted(suppressed)},
        "unproven_users": sorted(unproven),
    }


def _names_current_address(user: MailUser, report: Report) -> bool:
    """Whether the report names the user's present address. The user may have changed it since the mail was sent."""
    return spec_of(user.email or "") in report.addresses


async def _trace(store: AddressStore, reports: Sequence[Report]) -> dict[str, tuple[int, str]]:
    """The notification (id, user) of each token of ours. Searches the newest mails first, and stops when no token is left."""
    notifications: dict[str, tuple[int, str]] = {}
    async for mails in store.mails():
        untraced = [
            report for report in reports if report.tokens and not any(token in notifications for token in report.tokens)
        ]
        if not untraced:
            break
        notifications |= trace(untraced, mails)
    return notifications


async def _by_address(
    store: AddressStore, reports: Sequence[Report], own_address: str | None
) -> dict[tuple[str, str | None], list[str]]:
    """Users to whom we sent mail, by (address, sender). The sender is that of the returned header: our own or ``None``."""
    addresses = {address for report in reports if report.sender in {None, own_address} for address in report.addresses}
    users: dict[tuple[str, str | None], list[str]] = {}
    for user in (
        await store.users_at(spelling for address in addresses for spelling in spellings(address)) if addresses else ()
    ):
        for sender in {None, own_address}:
            users.setdefault((spec_of(user.email or "") or "", sender), []).append(user.user_guid)
    return users
