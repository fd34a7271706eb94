"""The answers of MX, as values.

A call to MX never raises because of MX. Every answer, and every missing answer, is classified into one of these values. Each failure has a
``code``, a short word for logs, ``status`` and the database. No failure holds a URI, a key or text from a body.

What each failure does to a reconnection is in ``policy/mx_failures.py``.
"""

from datetime import datetime

import msgspec


class MemberState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a member by MX's answer. A field that is missing there is ``None``."""

    guid: str
    connection_status: str | None = None
    is_being_aggregated: bool | None = None
    successfully_aggregated_at: datetime | None = None
    is_oauth: bool | None = None
    error_code: int | None = None


class Member(MemberState, frozen=True, kw_only=True):
    """A member that was read or listed, with all fields that this worker uses."""

    #: The client's own id of the member (``identifier`` in Atrium); ``user_id``: that of its user.
    id: str | None = None
    user_guid: str | None = None
    user_id: str | None = None
    institution_code: str | None = None
    #: Usually the bank's name; the user or the client may have chosen another.
    name: str | None = None
    #: ``False``: an MX partner manages the member, so its user cannot repeat OAuth.
    is_managed_by_user: bool | None = None
    #: When the last job for the member began, whatever its result.
    aggregated_at: datetime | None = None
    #: Whether the answer has a place for an error, so that no ``error_code`` means no error. Older answers have none.
    tells_error: bool = False


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A listed user. Its repr shows no personal data."""

    guid: str
    #: The client's own id of the user (``identifier`` in Atrium).
    id: str | None = None
    #: Only Platform has it.
    email: str | None = None
    is_disabled: bool | None = None
    #: Any text that the client stored there.
    metadata: str | None = None

    def __repr__(self) -> str:
        return f"User({self.guid})"


class Pagination(msgspec.Struct, frozen=True, kw_only=True):
    """MX's figures about a list and the page that it returned."""

    #: From 1.
    current_page: int
    #: The page size in force. If the requested size is out of range, MX silently uses 25.
    per_page: int
    total_entries: int
    total_pages: int


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the list of all users."""

    users: tuple[User, ...]
    pagination: Pagination
    #: The number of rows without a valid user GUID.
    unreadable: int = 0


class MemberList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the list of a user's members."""

    members: tuple[Member, ...]
    pagination: Pagination
    #: The number of rows without a valid member GUID.
    unreadable: int = 0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A checked ``oauth_window_uri``. ``member.guid`` differs from the requested one if MX moved the member."""

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
    #: Seconds that MX asked to wait (Retry-After); ``None``: it did not ask.
    after: float | None = None
    #: Whether the cause is MX as a whole (5xx, timeout, 429) rather than this member (409, a null URI).
    upstream: bool = True


class Unsupported(msgspec.Struct, frozen=True, kw_only=True):
    """400 ``Member cannot use OAuth``: the institution has none, or the client is not registered for it there."""

    code: str = "member_cannot_use_oauth"


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """404: MX does not know the user or the member any more."""

    code: str = "not_found"


class RefusedClient(msgspec.Struct, frozen=True, kw_only=True):
    """401, 403 or 406: key, client id, IP address or API version refused. It concerns all members, so it counts as no attempt."""

    code: str


class RejectedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Another 4xx, or a redirect: the request itself is wrong for this member, so an operator must examine it."""

    code: str


#: The code for a server that is not MX: ``MX_BASE_URL`` is wrong.
NOT_MX = "not_mx"
#: The code if MX has no users: the credentials belong to another environment, or all users were deleted there.
NO_USERS = "no_users"


class HostileUri(msgspec.Struct, frozen=True, kw_only=True):
    """MX answered with a URI that must not reach a user; ``code`` tells which rule it broke. Quarantined and reported."""

    code: str


Failure = RetryLater | Unsupported | Gone | RefusedClient | RejectedRequest
WindowAnswer = Window | HostileUri | Failure
MemberAnswer = MemberRead | Failure
UserListAnswer = UserList | Failure
MemberListAnswer = MemberList | Failure
