"""Who is broken?

A member is picked for one of four reasons: its token was revoked, its token has expired by a date that was not reckoned, MX's error
code says so, or its status means "OAuth again". A member that is known not to use OAuth is never picked. ``store/selection.py`` has the
same rule in SQL; a property test compares the two.
"""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

import msgspec

from worker.policy.moments import NEVER

#: 2004 REAUTHORIZATION_REQUIRED and 2005 INVALID_CREDENTIALS of MX's newer member objects.
ERROR_CODES = (2004, 2005)

#: Statuses of a member that is well.
HEALTHY = ("CONNECTED", "RECONNECTED", "UPDATED", "RESUMED")


class Reason(StrEnum):
    """Why a member was picked. If several reasons hold, the first of them counts."""

    REVOKED = "token_revoked"
    EXPIRED = "token_expired"
    ERROR = "error_code"
    STATUS = "connection_status"
    #: It is well, and its user is told before its token expires (``policy/notices.py``).
    EXPIRES_SOON = "expires_soon"


class MemberFacts(msgspec.Struct, frozen=True):
    """The columns of a member that the rule reads."""

    is_oauth: bool | None = None
    connection_status: str | None = None
    error_code: int | None = None
    token_expires_at: datetime | None = None
    token_revoked_at: datetime | None = None
    #: ``token_expires_at`` is a date of ours, reckoned from how long consents last (``policy/consents.py``). It holds until the
    #: application writes another date. If the application empties the column, the next sweep writes the date again.
    is_reckoned: bool = False
    #: Columns whose value was not understood; they count as empty.
    unreadable: tuple[str, ...] = ()


#: The column that each reason depends on.
UNREADABLE_FOR = {
    Reason.REVOKED: "token_revoked_at",
    Reason.EXPIRED: "token_expires_at",
    Reason.ERROR: "error_code",
    Reason.STATUS: "connection_status",
}
#: What an unreadable column holds, in words.
_HOLDS = {
    "token_revoked_at": "no moment",
    "token_expires_at": "no moment",
    "error_code": "no number",
    "connection_status": "no text",
    "is_oauth": "neither true nor false",
    "member_guid": "no GUID",
    "user_guid": "no GUID",
}


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a member is broken, and why or why not."""

    reason: Reason | None
    #: Since when, if a date says so; ``None``: since it was first seen.
    since: datetime | None
    #: A sentence for ``reconnect explain``.
    text: str

    @property
    def broken(self) -> bool:
        return self.reason is not None


def classify(member: MemberFacts, *, statuses: Collection[str], now: datetime) -> Selection:
    """Apply the rule to a member; ``statuses`` is ``RECONNECT_STATUSES``."""
    reason, since, text = _classified(member, statuses, now)
    if member.unreadable:
        words = (f"{name} holds {_HOLDS[name]} and counts as empty" for name in member.unreadable)
        text = f"{text}; {', '.join(words)}"
    return Selection(reason=reason, since=since, text=text)


def is_doubtful(member: MemberFacts, *, picked_for: str) -> bool:
    """Whether the column for which a member was picked is unreadable now. Then nothing shows that the break is over."""
    return any(picked_for == reason and name in member.unreadable for reason, name in UNREADABLE_FOR.items())


def _classified(  # noqa: PLR0911 - one return for each reason
    member: MemberFacts, statuses: Collection[str], now: datetime
) -> tuple[Reason | None, datetime | None, str]:
    if "member_guid" in member.unreadable or "user_guid" in member.unreadable:
        return None, None, "skipped: MX cannot be asked for it"
    if member.is_oauth is False:
        return None, None, "skipped: is_oauth is false, so OAuth cannot mend it"
    if member.token_revoked_at is not None and member.token_revoked_at < NEVER:
        text = f"picked: its token was revoked at {member.token_revoked_at:%Y-%m-%d %H:%M} UTC"
        return Reason.REVOKED, member.token_revoked_at, text
    if member.token_expires_at is not None and member.token_expires_at <= now and not member.is_reckoned:
        text = f"picked: its token expired at {member.token_expires_at:%Y-%m-%d %H:%M} UTC"
        return Reason.EXPIRED, member.token_expires_at, text
    if member.error_code in ERROR_CODES:
        return Reason.ERROR, None, f"picked: MX's error code {member.error_code} asks for OAuth again"
    if member.connection_status in statuses:
        return Reason.STATUS, None, f"picked: its status {member.connection_status} is in RECONNECT_STATUSES"
    status = member.connection_status or "unknown"
    return None, None, f"skipped: no token is revoked or expired, and its status {status} asks for nothing"
