"""Who is broken?

A member is picked when it is not known to be without OAuth and one of four things holds: its token was revoked, its token
has expired, MX's error code says so, or its status is one that means "OAuth again". ``store/selection.py`` says the same in
SQL; a property test holds the two together.
"""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum

import msgspec

#: 2004 REAUTHORIZATION_REQUIRED and 2005 INVALID_CREDENTIALS of MX's newer member objects.
ERROR_CODES = (2004, 2005)

#: Statuses of a member that is well.
HEALTHY = ("CONNECTED", "RECONNECTED", "UPDATED", "RESUMED")


class Reason(StrEnum):
    """Why a member was picked; where several hold, the first of these."""

    REVOKED = "token_revoked"
    EXPIRED = "token_expired"
    ERROR = "error_code"
    STATUS = "connection_status"
    #: It is well; its user is told ahead of the date of its token (``policy/notices.py``).
    EXPIRES_SOON = "expires_soon"


class MemberFacts(msgspec.Struct, frozen=True):
    """What the database says of a member, as far as the rule asks."""

    is_oauth: bool | None = None
    connection_status: str | None = None
    error_code: int | None = None
    token_expires_at: datetime | None = None
    token_revoked_at: datetime | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a member is broken, and why or why not."""

    reason: Reason | None
    #: Since when, where a date tells; ``None``: since it was first seen.
    since: datetime | None
    #: A sentence for ``reconnect explain``.
    text: str

    @property
    def broken(self) -> bool:
        return self.reason is not None


def judge(member: MemberFacts, *, statuses: Collection[str], now: datetime) -> Verdict:
    """Judge a member against the rule; ``statuses`` is ``RECONNECT_STATUSES``."""
    if member.is_oauth is False:
        return Verdict(reason=None, since=None, text="skipped: is_oauth is false, so OAuth cannot mend it")
    if member.token_revoked_at is not None:
        text = f"picked: its token was revoked at {member.token_revoked_at:%Y-%m-%d %H:%M} UTC"
        return Verdict(reason=Reason.REVOKED, since=member.token_revoked_at, text=text)
    if member.token_expires_at is not None and member.token_expires_at <= now:
        text = f"picked: its token expired at {member.token_expires_at:%Y-%m-%d %H:%M} UTC"
        return Verdict(reason=Reason.EXPIRED, since=member.token_expires_at, text=text)
    if member.error_code in ERROR_CODES:
        return Verdict(
            reason=Reason.ERROR, since=None, text=f"picked: MX's error code {member.error_code} asks for OAuth again"
        )
    if member.connection_status in statuses:
        text = f"picked: its status {member.connection_status} is in RECONNECT_STATUSES"
        return Verdict(reason=Reason.STATUS, since=None, text=text)
    text = f"skipped: no token is revoked or expired, and its status {member.connection_status or 'unknown'} asks for nothing"
    return Verdict(reason=None, since=None, text=text)
