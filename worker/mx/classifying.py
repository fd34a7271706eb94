"""What an HTTP answer of MX means (facts: *Errors*).

Nothing is taken on trust: any status, header and body is classified into a value of :mod:`worker.mx.answers`, and nothing raises.
Atrium's whole member and Platform's short one are read alike; unknown fields are passed over, odd ones count as missing. So one
row of a list that cannot be read costs that row alone.
"""

import html
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import msgspec

from worker.mx.answers import (
    NO_USERS,
    NOT_MX,
    Failure,
    Gone,
    HostileUri,
    Member,
    MemberAnswer,
    MemberList,
    MemberListAnswer,
    MemberRead,
    MemberState,
    Pagination,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
    User,
    UserList,
    UserListAnswer,
    Window,
    WindowAnswer,
)
from worker.mx.identifiers import is_member_guid, is_user_guid
from worker.mx.uris import check_uri

#: Seconds; a longer Retry-After is cut to it: asking again after an hour costs one request, believing in a year costs a year.
LONGEST_WAIT = 3600.0

#: A load balancer's timeout, an early repeat, and too many requests: they pass.
_PASSING = frozenset({408, 425, 429})
_REFUSES_CLIENT = frozenset({401, 403, 406})
_NO_OAUTH = re.compile(r"member\s+cannot\s+use\s+oauth", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{0,200}>")
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_WORD = re.compile(r"[A-Za-z0-9_]{1,64}")
#: RFC 5321 allows no longer address; ids, codes and names are far shorter.
_LONGEST_TEXT = 254


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
    broken = check_uri(uri, host_is_allowed=host_is_allowed)
    return HostileUri(code=broken) if broken else Window(uri=uri, member=_state(guid, fields))


def classify_member(status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberAnswer:
    """The answer to ``GET …/members/{asked}``."""
    seen = _member(status, headers, body, asked)
    return MemberRead(member=_whole(*seen)) if isinstance(seen, tuple) else seen


def classify_user_list(status: int, headers: Mapping[str, str], body: bytes) -> UserListAnswer:
    """The answer to ``GET /users``. There is always such a list, so a 404 or a redirect does not come from MX."""
    seen = _list(status, headers, body, "users")
    if isinstance(seen, Gone) or (isinstance(seen, RejectedRequest) and status < 400):  # noqa: PLR2004 - a redirect
        return RefusedClient(code=NOT_MX)
    if not isinstance(seen, tuple):
        return seen
    rows, pagination = seen
    users = tuple(_user(row) for row in rows if isinstance(row, dict) and is_user_guid(row.get("guid")))
    return UserList(users=users, pagination=pagination, unreadable=len(rows) - len(users))


def classify_member_list(status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberListAnswer:
    """The answer to ``GET /users/{asked}/members``."""
    seen = _list(status, headers, body, "members")
    if not isinstance(seen, tuple):
        return seen
    rows, pagination = seen
    members = tuple(
        _whole(row["guid"], row, listed_for=asked)
        for row in rows
        if isinstance(row, dict) and is_member_guid(row.get("guid"))
    )
    return MemberList(members=members, pagination=pagination, unreadable=len(rows) - len(members))


def classify_users(status: int, headers: Mapping[str, str], body: bytes) -> RetryLater | RefusedClient | None:
    """The answer to the list of users: ``None`` where it is one, with somebody on it.

    Only that is proof of MX. A redirect, an error page, a 204, JSON of another shape may come from any server.
    """
    if status != 200:  # noqa: PLR2004
        failure = RefusedClient(code=NOT_MX) if status < 400 else _classify_status(status, headers, body)  # noqa: PLR2004
        return failure if isinstance(failure, RetryLater | RefusedClient) else RefusedClient(code=NOT_MX)
    try:
        answer = _parsed(body)
    except (ValueError, RecursionError):
        return RefusedClient(code=NOT_MX)
    users, pagination = (answer.get(name) if isinstance(answer, dict) else None for name in ("users", "pagination"))
    if not isinstance(users, list) or not isinstance(pagination, dict):
        return RefusedClient(code=NOT_MX)
    if not all(isinstance(user, dict) and is_user_guid(user.get("guid")) for user in users):
        return RefusedClient(code=NOT_MX)
    return None if users else RefusedClient(code=NO_USERS)


def _parsed(body: bytes) -> Any:
    """JSON by a reader that is strict and fast; what that refuses, a byte-order mark or a NaN, as leniently as Python reads it."""
    try:
        return msgspec.json.decode(body)
    except ValueError:
        return json.loads(body)


def _list(status: int, headers: Mapping[str, str], body: bytes, name: str) -> tuple[list[Any], Pagination] | Failure:
    """The raw rows of a list and what MX says of it, or why there is none."""
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own figures
        return _classify_status(status, headers, body)
    try:
        answer = _parsed(body)
    except (ValueError, RecursionError):
        return RetryLater(code="not_json")
    rows, said = (answer.get(key) if isinstance(answer, dict) else None for key in (name, "pagination"))
    pagination = _pagination(said) if isinstance(said, dict) else None
    if not isinstance(rows, list) or pagination is None:
        return RetryLater(code="unexpected_shape")
    return rows, pagination


def _pagination(fields: dict[str, Any]) -> Pagination | None:
    said = {name: fields.get(name) for name in Pagination.__struct_fields__}
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in said.values()):
        return None
    return Pagination(**said)  # type: ignore[arg-type] # each was looked at


def _member(status: int, headers: Mapping[str, str], body: bytes, asked: str) -> tuple[str, dict[str, Any]] | Failure:
    """The member's GUID and its raw fields, or why there is none."""
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's own figures
        return _classify_status(status, headers, body)
    try:
        answer = _parsed(body)
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
        guid = asked  # the client's own id of it: that MX knows it by a GUID as well is no move
    return guid, fields


def _state(guid: str, fields: dict[str, Any]) -> MemberState:
    return MemberState(
        guid=guid,
        connection_status=_status(fields.get("connection_status")),
        is_being_aggregated=_flag(fields.get("is_being_aggregated")),
        successfully_aggregated_at=_moment(fields.get("successfully_aggregated_at")),
        is_oauth=_flag(fields.get("is_oauth")),
        error_code=_error_code(fields.get("error")),
    )


def _whole(guid: str, fields: dict[str, Any], *, listed_for: str | None = None) -> Member:
    """``listed_for``: the user whose members were listed, where the member does not say whose it is."""
    user_guid = fields.get("user_guid")
    return Member(
        guid=guid,
        connection_status=_status(fields.get("connection_status")),
        is_being_aggregated=_flag(fields.get("is_being_aggregated")),
        successfully_aggregated_at=_moment(fields.get("successfully_aggregated_at")),
        is_oauth=_flag(fields.get("is_oauth")),
        error_code=_error_code(fields.get("error")),
        id=_text(fields.get("id", fields.get("identifier"))),
        user_guid=user_guid if is_user_guid(user_guid) else listed_for,
        user_id=_text(fields.get("user_id")),
        institution_code=_text(fields.get("institution_code")),
        name=_text(fields.get("name")),
        is_managed_by_user=_flag(fields.get("is_managed_by_user")),
        aggregated_at=_moment(fields.get("aggregated_at")),
        tells_error="error" in fields,
    )


def _user(fields: dict[str, Any]) -> User:
    return User(
        guid=fields["guid"],
        id=_text(fields.get("id", fields.get("identifier"))),
        email=_text(fields.get("email")),
        is_disabled=_flag(fields.get("is_disabled")),
        metadata=value if isinstance(value := fields.get("metadata"), str) else None,
    )


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str | None:
    """Text that a database can hold, without the space around it; anything else counts as missing."""
    text = value.strip() if isinstance(value, str) else ""
    if not 0 < len(text) <= _LONGEST_TEXT:
        return None
    fits = text.isprintable() or not any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in text)
    return text if fits else None


def _status(value: object) -> str | None:
    """A word, known or not; never text that a log or a column could trip over."""
    return _word(value) if isinstance(value, str) else None


@lru_cache(maxsize=64)  # nearly all answers hold one of a dozen
def _word(value: str) -> str | None:
    return value.upper() if _WORD.fullmatch(value) else None


def _error_code(error: object) -> int | None:
    code = error.get("error_code") if isinstance(error, dict) else None
    if isinstance(code, str) and re.fullmatch("[0-9]{1,6}", code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) and 0 <= code < 1_000_000 else None  # noqa: PLR2004


def _moment(value: object) -> datetime | None:
    """ISO 8601, UTC where it names no zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _classify_status(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    code = f"http_{status}"
    if status == 404:  # noqa: PLR2004
        return Gone()
    if status in _REFUSES_CLIENT:
        return RefusedClient(code=code)
    if status == 409:  # noqa: PLR2004 - another job runs for this member
        return RetryLater(code=code, after=_retry_after(headers), upstream=False)
    if status == 400 and _says_no_oauth(body):  # noqa: PLR2004
        return Unsupported()
    if 300 <= status < 500 and status not in _PASSING:  # noqa: PLR2004
        return RejectedRequest(code=code)
    return RetryLater(code=code, after=_retry_after(headers))


def _says_no_oauth(body: bytes) -> bool:
    """Whether ``Member cannot use OAuth`` stands anywhere in it: in JSON of whatever shape, in HTML or in plain text."""
    text = _TAG.sub(" ", html.unescape(body.decode("utf-8", "replace")))
    return _NO_OAUTH.search(text) is not None or any(_NO_OAUTH.search(part) for part in _strings(body))


def _strings(body: bytes) -> list[str]:
    """Every string in a JSON text, with its escapes undone."""
    found: list[str] = []
    try:
        todo: list[Any] = [_parsed(body)]
    except (ValueError, RecursionError):
        return found
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
    return found


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that MX asks to wait, from 0 to :data:`LONGEST_WAIT`; ``None`` for nothing, nonsense and negative numbers."""
    value = _header(headers, "retry-after")
    if _SECONDS.fullmatch(value):
        return min(float(value), LONGEST_WAIT)
    until = _http_date(value)
    if until is None:
        return None
    # A date is on MX's clock, so it is measured from MX's own idea of now wherever there is one.
    now = _http_date(_header(headers, "date")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_WAIT)


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value.strip() for key, value in headers.items() if key.lower() == name), "")


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
