"""The comparison at the end of a test: the database against the records of the sandbox's bank and mailbox.

It collects all discrepancies, raises one error, and names up to five rows of each kind.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.faults.records import Records
from tests.faults.schedule import Schedule
from tests.machine import Machine, get_json
from worker.channels.email.message import message_id
from worker.policy.states import ENDS

#: The most that it takes, on a busy machine, to send a mail after its dispatch and to settle its result. Only a death within this
#: time after the dispatch may leave a message unknown.
AROUND_DATA = timedelta(seconds=5)

_SHOWN = 5
_FINAL = frozenset(map(str, ENDS))
_DOMAIN = "ledgerly.example"


@dataclass
class Findings:
    """Discrepancies by kind."""

    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def expect(self, holds: object, kind: str, which: object) -> None:
        if not holds:
            self.found[kind].append(str(which))

    def none(self, kind: str, rows: Iterable[Any]) -> None:
        """Add every one of these rows as a discrepancy."""
        for row in rows:
            self.expect(False, kind, tuple(row))

    def __str__(self) -> str:
        return "\n".join(
            f"{kind}: {len(which)}, such as {', '.join(which[:_SHOWN])}" for kind, which in self.found.items()
        )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The numbers that a comparison counted, for further assertions of the test."""

    reconnections: dict[str, int]
    notifications: dict[str, int]
    mails: int
    minted: int
    stored: int


def compare(
    machine: Machine,
    records: Records,
    *,
    broken: int,
    schedule: Schedule | None = None,
    deaths: Collection[str] = (),
    ends: Collection[str] = _FINAL,
    unknown_codes: Collection[str] = (),
) -> Figures:
    """Raise ``AssertionError`` unless database, bank and mailbox agree. To be called when no row is claimed any more.

    ``broken`` is how many members are broken; ``ends`` are the final states that are allowed. A notification may be ``unknown`` for
    an outcome that begins with one of ``unknown_codes``. It may also be ``unknown`` because its worker died: then the ``schedule``
    must contain, right after the dispatch, a deed that begins with one of the words ``deaths``.
    """
    findings = Findings()
    _every_episode(records, findings, broken=broken, ends=set(ends))
    _every_window(records, findings)
    minted = _the_bank(machine, records, findings)
    mails = _every_message(machine, records, findings)
    _every_unknown(records, findings, schedule, deaths, unknown_codes)
    for step in records.undocumented_steps():
        findings.expect(False, "steps that policy/states.py does not know", step)
    assert not findings.found, f"database, bank and mailbox disagree\n{findings}"
    return Figures(
        reconnections=records.counts("reconnections"),
        notifications=records.counts("notifications"),
        mails=mails,
        minted=minted,
        stored=records.one("SELECT count(*) FROM windows"),
    )


def _every_episode(records: Records, findings: Findings, *, broken: int, ends: set[str]) -> None:
    """Every member has a reconnection, and every open reconnection has a next step."""
    known = records.one("SELECT count(DISTINCT member_guid) FROM reconnections")
    findings.expect(known == broken, "members that have a reconnection", f"{known} of {broken}")
    findings.none(
        "more than one open reconnection",
        records.all(
            "SELECT member_guid, count(*) FROM reconnections WHERE closed_at IS NULL GROUP BY member_guid HAVING count(*) > 1"
        ),
    )
    live = {
        row.id
        for row in records.all(
            "SELECT l.reconnection_id AS id FROM notification_reconnections l JOIN notifications n"
            " ON n.id = l.notification_id WHERE n.state = 'pending' AND n.next_attempt_at IS NOT NULL"
        )
    }
    told = {
        row.id
        for row in records.all(
            "SELECT l.reconnection_id AS id FROM notification_reconnections l JOIN notifications n"
            " ON n.id = l.notification_id WHERE n.state IN ('sent', 'unknown')"
        )
    }
    for row in records.all(
        "SELECT id, member_guid, state, outcome, next_attempt_at, next_check_at, lease_worker, closed_at FROM reconnections"
    ):
        who = (row.member_guid, row.state, row.outcome)
        match row.state:
            case "due":
                findings.expect(row.next_attempt_at is not None, "due, but never", who)
            case "ready":
                findings.expect(row.id in live, "ready, but no message is on its way", who)
            case "notified":
                planned = row.next_attempt_at is not None and row.next_check_at is not None
                findings.expect(planned and row.id in told, "notified, but nothing comes next or nobody was told", who)
            case "leased":
                findings.expect(False, "still leased", who)
            case _:
                findings.expect(row.state in ends, "an end that nothing led to", who)
        findings.expect((row.state in _FINAL) == (row.closed_at is not None), "closed and open at once", who)
        findings.expect(row.lease_worker is None, "held by nobody that works", who)


def _every_window(records: Records, findings: Findings) -> None:
    """A reconnection has one live window at most and one window for each epoch. Only the live one keeps its URI."""
    findings.none(
        "more than one live window",
        records.all(
            "SELECT reconnection_id, count(*) FROM windows WHERE superseded_at IS NULL GROUP BY 1 HAVING count(*) > 1"
        ),
    )
    findings.none(
        "more than one window of one attempt",
        records.all("SELECT reconnection_id, epoch, count(*) FROM windows GROUP BY 1, 2 HAVING count(*) > 1"),
    )
    findings.none(
        "a superseded window that keeps its URI",
        records.all("SELECT id, reconnection_id FROM windows WHERE superseded_at IS NOT NULL AND uri IS NOT NULL"),
    )
    findings.none(
        "a message whose window is not there",
        records.all(
            "SELECT r.id, r.state FROM reconnections r WHERE r.state IN ('ready', 'notified') AND NOT EXISTS"
            " (SELECT 1 FROM windows w WHERE w.reconnection_id = r.id AND w.superseded_at IS NULL AND w.uri IS NOT NULL)"
        ),
    )


def _the_bank(machine: Machine, records: Records, findings: Findings) -> int:
    """No member has more stored windows than the bank minted for it. Returns how many the bank minted in all."""
    ledger = get_json(f"{machine.sandbox['ledger']}?members=true", timeout=60)
    minted: dict[str, int] = {guid: counts["minted"] for guid, counts in ledger["members"].items()}
    for row in records.all(
        "SELECT r.member_guid, count(w.id) AS stored FROM reconnections r"
        " JOIN windows w ON w.reconnection_id = r.id GROUP BY r.member_guid"
    ):
        asked = minted.get(row.member_guid, 0)
        findings.expect(row.stored <= asked, "more windows than the bank minted", (row.member_guid, row.stored, asked))
    return sum(minted.values())


def _every_message(machine: Machine, records: Records, findings: Findings) -> int:
    """No user got two mails for one step, and the mailbox has exactly the mails that the database expects. Returns their number."""
    box = get_json(f"{machine.sandbox['base_url']}/sandbox/mail.json", timeout=60)
    findings.none("mails with one Message-ID", box["repeated"].items())
    arrived: Counter[str] = Counter(mail["message_id"] for mail in box["mails"])
    to = {mail["message_id"]: mail["recipients"] for mail in box["mails"]}
    findings.none(
        "more than one live message to a user",
        records.all(
            "SELECT user_guid, count(*) FROM notifications WHERE state IN ('pending', 'sending') GROUP BY 1 HAVING count(*) > 1"
        ),
    )
    findings.none(
        "two messages for one step",
        records.all(
            "SELECT l.reconnection_id, l.step, count(*) FROM notification_reconnections l JOIN notifications n"
            " ON n.id = l.notification_id WHERE n.state IN ('sent', 'unknown') GROUP BY 1, 2 HAVING count(*) > 1"
        ),
    )
    counted: Counter[str] = Counter()
    for row in records.all(
        "SELECT n.id, n.state, n.outcome, n.message_key, n.next_attempt_at, n.lease_worker, u.email"
        " FROM notifications n JOIN users u ON u.user_guid = n.user_guid WHERE n.channel = 'email'"
    ):
        identity = message_id(row.message_key, _DOMAIN)
        mails = arrived.pop(identity, 0)
        counted[row.email] += mails
        who = (row.id, row.state, row.outcome, f"{mails} mails")
        findings.expect(mails == 0 or to[identity] == [row.email], "a mail to somebody else", who)
        findings.expect(row.lease_worker is None, "a message held by nobody that works", who)
        match row.state:
            case "sent":
                findings.expect(mails == 1, "sent, but not there", who)
            case "unknown":
                findings.expect(mails <= 1, "unknown, and there twice", who)
            case "sending":
                findings.expect(False, "still sending", who)
            case "pending":
                findings.expect(row.next_attempt_at is not None, "pending, but never", who)
                findings.expect(mails == 0, "pending, but it has arrived", who)
            case _:
                findings.expect(mails == 0, "over without success, but it has arrived", who)
    findings.none("mails that no notification stands for", arrived.items())
    for email, mails in box["recipients"].items():
        findings.expect(counted[email] == mails, "mails to one person", (email, mails, counted[email]))
    return int(box["count"])


def _every_unknown(
    records: Records, findings: Findings, schedule: Schedule | None, deaths: Collection[str], codes: Collection[str]
) -> None:
    for row in records.all("SELECT id, outcome, dispatched_at FROM notifications WHERE state = 'unknown'"):
        if row.outcome.startswith(tuple(codes)):
            continue
        who = (row.id, row.outcome, row.dispatched_at)
        explained = (
            row.outcome in {"worker_died", "cut_short"}
            and row.dispatched_at is not None
            and schedule is not None
            and schedule.is_near(
                records.moment(row.dispatched_at), words=deaths, before=timedelta(seconds=0.2), after=AROUND_DATA
            )
        )
        findings.expect(explained, "unknown, though nobody died around its DATA", who)
