"""The values of a sync: its row and findings, the members to read, and MX's answers."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from worker.errors import WorkerError
from worker.store.from_mx.answers import MxMember, OurMember

LISTING, CHECKING, FINISHED, FAILED = "listing", "checking", "finished", "failed"
#: How often MX is asked for the members of a user, or for one member, before a sync continues without them.
MOST_ATTEMPTS = 3

#: The words of ``found``, in the order in which they are shown.
FOUND: Mapping[str, str] = {
    "users": "users",
    "members": "members",
    "new_users": "new users",
    "new_members": "new members",
    "changed": "changed",
    "back": "back",
    "moved": "moved to another GUID",
    "gone": "gone",
    "emails": "addresses taken over",
    "managed": "managed by a partner and skipped",
    "disabled": "disabled users, whose members were skipped",
    "other_user": "listed for another user than yours, and left alone",
    "overtaken": "back before MX's answer arrived",
    "repeated": "users listed twice",
    "unlisted": "not listed, though MX knows them",
    "unreadable": "entries that name nobody",
    "contradicted": "users whose list contradicts itself",
    "unread": "users whose members could not be read",
    "unchecked": "not listed, and could not be read",
}


class Busy(WorkerError):  # noqa: N818 - it names the state that the operator sees
    """Another process holds the unfinished sync."""

    def __init__(self, worker: str, until: datetime) -> None:
        super().__init__(
            f"sync: {worker} is at it, until {until:%H:%M:%S} UTC at least; `reconnect status` shows how far it is"
        )
        self.worker = worker
        self.until = until


class LostSync(WorkerError):  # noqa: N818
    """The lease of the sync ran out, and another process took it."""

    def __init__(self) -> None:
        super().__init__("sync: another process took over, since this one was too slow; it goes on there")


class Sync(msgspec.Struct, kw_only=True):
    """A sync, as a row of ``syncs``."""

    id: int
    started_at: datetime
    touched_at: datetime
    finished_at: datetime | None
    phase: str
    outcome: str | None
    lease_worker: str | None
    lease_expires_at: datetime | None
    epoch: int
    taken: int
    per_page: int | None
    first_total: int | None
    total: int | None
    has_all_users: bool
    found: Counter[str]

    @property
    def summary(self) -> str:
        """What it found, in one line."""
        return counts_in_words(self.found)

    @property
    def says(self) -> str:
        """How the sync ended and what it found, or its progress, in one line."""
        if self.phase == FINISHED:
            return f"ended {self.finished_at:%Y-%m-%d %H:%M} UTC, {self.summary}"
        if self.phase == FAILED:
            return f"failed {self.finished_at:%Y-%m-%d %H:%M} UTC, {self.outcome}"
        progress = (
            f"{self.found.get('users', 0)} of {self.total} users listed" if self.total else "no page of users yet"
        )
        return f"unfinished: {progress}, {self.found.get('members', 0)} members; last progress {self.touched_at:%Y-%m-%d %H:%M} UTC"


def complete(found: Mapping[str, int]) -> dict[str, int]:
    """Every word of :data:`FOUND` with its figure."""
    return {word: found.get(word, 0) for word in FOUND}


def counts_in_words(found: Mapping[str, int]) -> str:
    """Figures of ``found`` as one line: ``100 users, 150 members, 3 new members, 2 changed``, or ``100 users, 150 members, nothing changed``."""
    always = ("users", "members")
    parts = [f"{found.get(word, 0)} {phrase}" for word, phrase in FOUND.items() if word in always or found.get(word, 0)]
    if not any(found.get(word, 0) for word in CHANGES):
        parts.append("nothing changed")
    return ", ".join(parts)


#: The words that count rows written.
CHANGES = ("new_users", "new_members", "changed", "back", "gone", "emails")


class KnownMember(OurMember, frozen=True, kw_only=True):
    """A row of ours, as it was when its user was claimed."""

    #: Whether it has a reconnection that is open, or that ended by a 404 of MX and prevents another. Then MX's answer matters even if our
    #: row has the same values.
    concerns_reconnection: bool


class UserToRead(msgspec.Struct, frozen=True, kw_only=True):
    """A user whose members are to be read, with our rows of them."""

    id: int
    user_guid: str
    attempts: int
    #: Our rows of this user, by their GUID.
    known: Mapping[str, KnownMember]


class UserRead(msgspec.Struct, frozen=True, kw_only=True):
    """MX's answer about a user's members."""

    user: UserToRead
    members: Sequence[MxMember] = ()
    #: The GUIDs of our rows that MX no longer lists.
    missing: Collection[str] = ()
    #: Whether reading failed, and whether that counts as an attempt.
    failed: bool = False
    counts: bool = True
    #: Numbers to add to ``found``.
    noted: Mapping[str, int] = {}


class MemberToCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A member that is missing in MX's lists."""

    id: int
    member_guid: str
    user_guid: str
    attempts: int
    #: The GUID that it moved to, as far as we know.
    moved_to: str | None = None

    @property
    def asked_guid(self) -> str:
        return self.moved_to or self.member_guid


class MemberChecked(msgspec.Struct, frozen=True, kw_only=True):
    """MX's answer when it was asked for this member alone."""

    member: MemberToCheck
    answer: MxMember | None = None
    gone: bool = False
    counts: bool = True
