"""From mailboxes full of delivery reports to addresses that are written to no more.

A report is traced to its mail by the Message-ID, which only somebody who saw the mail knows. Where the report does not name the
mail, the address decides, if a mail of ours has gone there. That much a stranger who can write to the mailbox may forge: it
silences one address, which ``users.refused_email`` shows and a new address or an emptied column undoes.
"""

import mailbox
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worker.bounces import LIMIT, Report, Unreadable, Verdict, parse, spec_of, spellings, trace
from worker.cli.session import aside
from worker.errors import UsageError
from worker.runtime import Runtime
from worker.store.addresses import AddressStore, MailUser

#: What is counted, and what it means to the person who reads it.
SAYS = {
    "suppressed": "addresses suppressed: they do not exist",
    "suppressed_before": "were suppressed already",
    "not_theirs": "do not exist, but are not the user's address (any more): nothing to do",
    "mailbox_full": "mailboxes are full: written to again",
    "transient": "delays and failures that pass: written to again",
    "refused": "refused for another reason than the address: see your mail server",
    "delivered": "delivered after all",
    "not_ours": "about mails that this worker did not send",
    "unreadable": "mails that cannot be read",
}


def read(path: Path) -> tuple[list[Report], Counter[str]]:
    """All reports in a maildir, a folder of mails, a mail or an mbox, and what there was beside them."""
    reports: list[Report] = []
    counts: Counter[str] = Counter()
    for content in _mails(path):
        counts["mails"] += 1
        try:
            found = parse(content)
        except Unreadable:
            counts["unreadable"] += 1
            continue
        counts["reports"] += len(found)
        counts["other_mails"] += not found
        reports += found
    return reports, counts


def _mails(path: Path) -> Iterator[bytes]:
    """The beginning of every mail there."""
    try:
        if path.is_dir():
            for folder in [path / name for name in ("new", "cur") if (path / name).is_dir()] or [path]:
                for file in sorted(folder.iterdir()):
                    if file.is_file() and not file.name.startswith("."):
                        yield from _of_file(file)
        elif path.is_file():
            yield from _of_file(path)
        else:
            raise UsageError(f"bounces: {path}: there is no such folder or file")
    except OSError as error:
        raise UsageError(f"bounces: {path}: {error.strerror}") from None


def _of_file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT)
        if content.startswith(b"From "):
            yield from _of_mbox(path)
        else:
            yield content
    except OSError as error:
        aside.print(f"{path.name}: {error.strerror}")


def _of_mbox(path: Path) -> Iterator[bytes]:
    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            yield box.get_file(key).read(LIMIT)
    finally:
        box.close()


async def take_in(runtime: Runtime, reports: Sequence[Report], counts: Counter[str]) -> dict[str, Any]:
    """Find whose mails the reports speak of, suppress what has to be, and count the rest."""
    now = await runtime.set_clock()
    store = AddressStore(runtime.database)
    mails = await _trace(store, reports)
    people = await store.users({guid for _, guid in mails.values()})
    neighbours = await _by_address(store, reports)
    refused: dict[str, MailUser] = {}
    notes: list[tuple[int, str]] = []
    for report in reports:
        mail = next((mails[token] for token in report.tokens if token in mails), None)
        if mail is not None:
            users = [people[mail[1]]] if mail[1] in people else []
            if report.code.startswith("5"):
                notes.append((mail[0], f"bounced_{report.code}"))
        else:
            nobody = () if report.names_mail else report.addresses
            users = [user for address in nobody for user in neighbours.get(address, ())]
        if mail is None and not users:
            counts["not_ours"] += 1
        elif report.verdict is not Verdict.BAD_ADDRESS:
            counts[report.verdict] += 1
        else:
            theirs = {user.user_guid: user for user in users if spec_of(user.email or "") in report.addresses}
            refused |= theirs
            counts["not_theirs"] += not theirs
    suppressed = await store.refuse(refused.values(), bounced=notes, now=now)
    counts["suppressed"], counts["suppressed_before"] = len(suppressed), len(refused) - len(suppressed)
    figures = {name: counts[name] for name in ("mails", "reports", "other_mails", *SAYS)}
    return {**figures, "suppressed_users": sorted(suppressed)}


async def _trace(store: AddressStore, reports: Sequence[Report]) -> dict[str, tuple[int, str]]:
    """The notification (id, user) for each token that is ours; the newest are looked through first."""
    found: dict[str, tuple[int, str]] = {}
    async for sent in store.mails():
        open_ = [report for report in reports if report.tokens and not any(token in found for token in report.tokens)]
        if not open_:
            break
        found |= trace(open_, sent)
    return found


async def _by_address(store: AddressStore, reports: Sequence[Report]) -> dict[str, list[MailUser]]:
    """Whom a mail of ours has gone to, by address, for reports that do not name the mail."""
    addresses = {address for report in reports if not report.names_mail for address in report.addresses}
    if not addresses:
        return {}
    found: dict[str, list[MailUser]] = {}
    for user in await store.users_at(spelling for address in addresses for spelling in spellings(address)):
        found.setdefault(spec_of(user.email or "") or "", []).append(user)
    return found
