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


class Member(MemberState, frozen=True, kw_only=True):
    """A member that was read or listed: all of it that this worker has a use for."""

    #: The client's own id of it, and of its user (``identifier`` in Atrium).
    id: str | None = None
    user_guid: str | None = None
    user_id: str | None = None
    institution_code: str | None = None
    #: Usually the bank's name; the user or the client may have given it another.
    name: str | None = None
    #: ``False``: an MX partner manages it, so OAuth is not the user's to repeat.
    is_managed_by_user: bool | None = None
    #: When the last job for it began, whatever came of it.
    aggregated_at: datetime | None = None
    #: Whether the answer has a place for an error, so that no ``error_code`` means no error. Older answers have none.
    tells_error: bool = False


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user, as listed. Its repr shows nothing of the person."""

    guid: str
    #: The client's own id of it (``identifier`` in Atrium).
    id: str | None = None
    #: Platform alone knows it.
    email: str | None = None
    is_disabled: bool | None = None
    #: Whatever the client stored there.
    metadata: str | None = None

    def __repr__(self) -> str:
        return f"User({self.guid})"


class Pagination(msgspec.Struct, frozen=True, kw_only=True):
    """What MX says of a list and of the page that it answered with."""

    #: From 1.
    current_page: int
    #: The page size in force. MX silently takes 25 where the one that was asked for is out of its range.
    per_page: int
    total_entries: int
    total_pages: int


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the list of all users."""

    users: tuple[User, ...]
    pagination: Pagination
    #: How many rows named no user that could be asked for.
    unreadable: int = 0


class MemberList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the list of a user's members."""

    members: tuple[Member, ...]
    pagination: Pagination
    #: How many rows named no member that could be asked for.
    unreadable: int = 0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A checked ``oauth_window_uri``. ``member.guid`` differs from the one asked for where MX moved the member."""

    uri: str
    member: MemberState

    def __repr__(self) -> str:  # the URI is a bearer secret
        return f"Window(member={self.member.guid})"


class MemberRead(msgspec.Struct, frozen=True, kw_only=True):
    """A member, read."""

    member: Member


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
    """401, 403 or 406: key, client id, IP address or API version refused. It concerns everyone, and counts as no member's attempt."""

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
UserListAnswer = UserList | Failure
MemberListAnswer = MemberList | Failure
