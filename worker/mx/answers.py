"""What MX can answer, as values.

A call to MX never raises because of what MX did. Every answer, and every missing answer, is classified into one of these. Each failure
has a ``code``, a short word for logs, ``status`` and the database. None holds a URI, a key or text from a body.

What each failure does to a reconnection is in ``policy/mx_failures.py``.
"""

from datetime import datetime

import msgspec


class MemberState(msgspec.Struct, frozen=True, kw_only=True):
    """What MX says of a member, as far as this worker cares; anything may be missing and is then ``None``."""

    guid: str
    connection_status: str | None = None
    is_being_aggregated: bool | None = None
    successfully_aggregated_at: datetime | None = None
    is_oauth: bool | None = None
    error_code: int | None = None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A checked ``oauth_window_uri``. ``member.guid`` differs from the one asked for where MX moved the member."""

    uri: str
    member: MemberState

    def __repr__(self) -> str:  # the URI is a bearer secret
        return f"Window(member={self.member.guid})"


class MemberRead(msgspec.Struct, frozen=True, kw_only=True):
    """A member, read."""

    member: MemberState


class RetryLater(msgspec.Struct, frozen=True, kw_only=True):
    """MX's fault or a busy member: 409, 429, 5xx, a timeout, a broken or unusable body. Retried in minutes to days."""

    code: str
    #: Seconds that MX asked to wait (Retry-After), if it did.
    after: float | None = None
    #: Whether it speaks of MX as a whole (5xx, timeout, 429) rather than of this member (409, a null URI).
    upstream: bool = True


class Unsupported(msgspec.Struct, frozen=True, kw_only=True):
    """400 ``Member cannot use OAuth``: the institution has none, or the client is not registered for it there."""

    code: str = "member_cannot_use_oauth"


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """404: MX does not know the user or the member any more."""

    code: str = "not_found"


class RefusedClient(msgspec.Struct, frozen=True, kw_only=True):
    """401, 403 or 406: key, client id, IP address or API version refused. It concerns everyone, and counts as nobody's attempt."""

    code: str


class RejectedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Another 4xx, or a redirect: the request itself is wrong for this member, so an operator must examine it."""

    code: str


#: The code of a server that is not MX: ``MX_BASE_URL`` leads elsewhere.
NOT_MX = "not_mx"
#: The code of an MX that has no user at all: the credentials belong to another environment, or everybody was deleted there.
NO_USERS = "no_users"


class HostileUri(msgspec.Struct, frozen=True, kw_only=True):
    """MX answered with a URI that must not reach a user; ``code`` says which rule it broke. Quarantined and reported."""

    code: str


Failure = RetryLater | Unsupported | Gone | RefusedClient | RejectedRequest
WindowAnswer = Window | HostileUri | Failure
MemberAnswer = MemberRead | Failure
