"""Classifies HTTP answers of MX.

Any status, headers and body are classified into a value of :mod:`worker.mx.answers`; nothing raises. Atrium's long member and Platform's
short one are read by the same code. Unknown fields are ignored, and invalid ones count as missing. So an unreadable row of a list makes
only that row fail.
"""

from collections.abc import Callable, Mapping
from typing import Any

from worker.mx.answers import (
    NO_USERS,
    NOT_MX,
    Failure,
    Gone,
    HostileUri,
    MemberAnswer,
    MemberList,
    MemberListAnswer,
    MemberRead,
    Pagination,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    UserList,
    UserListAnswer,
    Window,
    WindowAnswer,
)
from worker.mx.error_statuses import classify_failure, parsed
from worker.mx.identifiers import is_member_guid, is_user_guid
from worker.mx.raw_fields import member_of, state_of, user_of
from worker.mx.uris import check_uri


def classify_window(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    asked: str,
    host_is_allowed: Callable[[str], bool],
) -> WindowAnswer:
    """The answer to ``GET …/oauth_window_uri`` for the member ``asked``."""
    seen = _member(status, headers, body, asked)
    if not isinstance(seen, tuple):
        return seen
    guid, fields = seen
    uri = fields.get("oauth_window_uri")
    if not isinstance(uri, str) or not uri.strip():
        return RetryLater(code="no_uri", upstream=False)
    broken_rule = check_uri(uri, host_is_allowed=host_is_allowed)
    return HostileUri(code=broken_rule) if broken_rule else Window(uri=uri, member=state_of(guid, fields))


def classify_member(status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberAnswer:
    """The answer to ``GET …/members/{asked}``."""
    seen = _member(status, headers, body, asked)
    return MemberRead(member=member_of(*seen)) if isinstance(seen, tuple) else seen


def classify_user_list(status: int, headers: Mapping[str, str], body: bytes) -> UserListAnswer:
    """The answer to ``GET /users``. MX always has this list, so a 404 or a redirect does not come from MX."""
    seen = _list(status, headers, body, "users")
    if isinstance(seen, Gone) or (isinstance(seen, RejectedRequest) and status < 400):  # noqa: PLR2004 - a redirect
        return RefusedClient(code=NOT_MX)
    if not isinstance(seen, tuple):
        return seen
    rows, pagination = seen
    users = tuple(user_of(row) for row in rows if isinstance(row, dict) and is_user_guid(row.get("guid")))
    return UserList(users=users, pagination=pagination, unreadable=len(rows) - len(users))


def classify_member_list(status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberListAnswer:
    """The answer to ``GET /users/{asked}/members``."""
    seen = _list(status, headers, body, "members")
    if not isinstance(seen, tuple):
        return seen
    rows, pagination = seen
    members = tuple(
        member_of(row["guid"], row, listed_for=asked)
        for row in rows
        if isinstance(row, dict) and is_member_guid(row.get("guid"))
    )
    return MemberList(members=members, pagination=pagination, unreadable=len(rows) - len(members))


def classify_users(status: int, headers: Mapping[str, str], body: bytes) -> RetryLater | RefusedClient | None:
    """``None`` if the answer is a list of users that is not empty; else the failure.

    Only such a list proves that MX answered. A redirect, an error page, a 204 or other JSON may come from any server.
    """
    if status != 200:  # noqa: PLR2004
        failure = RefusedClient(code=NOT_MX) if status < 400 else classify_failure(status, headers, body)  # noqa: PLR2004
        return failure if isinstance(failure, RetryLater | RefusedClient) else RefusedClient(code=NOT_MX)
    try:
        answer = parsed(body)
    except (ValueError, RecursionError):
        return RefusedClient(code=NOT_MX)
    users, pagination = (answer.get(name) if isinstance(answer, dict) else None for name in ("users", "pagination"))
    if not isinstance(users, list) or not isinstance(pagination, dict):
        return RefusedClient(code=NOT_MX)
    if not all(isinstance(user, dict) and is_user_guid(user.get("guid")) for user in users):
        return RefusedClient(code=NOT_MX)
    return None if users else RefusedClient(code=NO_USERS)


def _list(status: int, headers: Mapping[str, str], body: bytes, name: str) -> tuple[list[Any], Pagination] | Failure:
    """The raw rows of a list and its figures, or the failure."""
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own figures
        return classify_failure(status, headers, body)
    try:
        answer = parsed(body)
    except (ValueError, RecursionError):
        return RetryLater(code="not_json")
    rows, pagination_fields = (answer.get(key) if isinstance(answer, dict) else None for key in (name, "pagination"))
    pagination = _pagination(pagination_fields) if isinstance(pagination_fields, dict) else None
    if not isinstance(rows, list) or pagination is None:
        return RetryLater(code="unexpected_shape")
    return rows, pagination


def _pagination(fields: dict[str, Any]) -> Pagination | None:
    figures = {name: fields.get(name) for name in Pagination.__struct_fields__}
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in figures.values()):
        return None
    return Pagination(**figures)  # type: ignore[arg-type] # each was looked at


def _member(status: int, headers: Mapping[str, str], body: bytes, asked: str) -> tuple[str, dict[str, Any]] | Failure:
    """The member's GUID and its raw fields, or the failure."""
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own figures
        return classify_failure(status, headers, body)
    try:
        answer = parsed(body)
    except (ValueError, RecursionError):
        return RetryLater(code="not_json")
    fields = answer.get("member") if isinstance(answer, dict) else None
    if not isinstance(fields, dict):
        return RetryLater(code="unexpected_shape")
    guid = fields.get("guid")
    if guid is None:
        guid = asked
    elif guid != asked and not is_member_guid(guid):
        return RetryLater(code="unexpected_shape")
    elif not is_member_guid(asked):
        guid = asked  # the client's own id. MX answers with a GUID, which does not mean that the member moved
    return guid, fields
