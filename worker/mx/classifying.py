"""What an HTTP answer of MX means (facts: *Errors*).

Nothing is taken on trust: any status, header and body is classified into a value of :mod:`worker.mx.answers`, and nothing raises.
Atrium's whole member and Platform's short one are read alike; unknown fields are passed over, odd ones count as missing.
"""

import html
import json
import re
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
    MemberAnswer,
    MemberRead,
    MemberState,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
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
    state, fields = seen
    uri = fields.get("oauth_window_uri")
    if not isinstance(uri, str) or not uri.strip():
        return RetryLater(code="no_uri", upstream=False)
    broken = check_uri(uri, host_is_allowed=host_is_allowed)
    return HostileUri(code=broken) if broken else Window(uri=uri, member=state)


def classify_member(status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberAnswer:
    """The answer to ``GET …/members/{asked}``."""
    seen = _member(status, headers, body, asked)
    return MemberRead(member=seen[0]) if isinstance(seen, tuple) else seen


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


def _member(
    status: int, headers: Mapping[str, str], body: bytes, asked: str
) -> tuple[MemberState, dict[str, Any]] | Failure:
    """The member as read and its raw fields, or why there is none."""
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
    return _state(guid, fields), fields


def _state(guid: str, fields: dict[str, Any]) -> MemberState:
    busy, is_oauth = fields.get("is_being_aggregated"), fields.get("is_oauth")
    return MemberState(
        guid=guid,
        connection_status=_status(fields.get("connection_status")),
        is_being_aggregated=busy if isinstance(busy, bool) else None,
        successfully_aggregated_at=_moment(fields.get("successfully_aggregated_at")),
        is_oauth=is_oauth if isinstance(is_oauth, bool) else None,
        error_code=_error_code(fields.get("error")),
    )


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
