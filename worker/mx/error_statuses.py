"""Classifies answers of MX with another status than 2xx."""

import html
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from worker.mx.answers import (
    Failure,
    Gone,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
)
from worker.retry_after import retry_after

#: Seconds. A longer Retry-After is cut to this: a request each hour costs little, but a wrong header could stop all work for a year.
LONGEST_WAIT = 3600.0

#: 4xx after which MX may be asked again: a timeout of a load balancer, too early, too many requests.
_RETRYABLE = frozenset({408, 425, 429})
_REFUSES_CLIENT = frozenset({401, 403, 406})
_NO_OAUTH = re.compile(r"member\s+cannot\s+use\s+oauth", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{0,200}>")


def classify_failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """The failure for an answer with another status than 2xx."""
    code = f"http_{status}"
    if status == 404:  # noqa: PLR2004
        return Gone()
    if status in _REFUSES_CLIENT:
        return RefusedClient(code=code)
    if status == 409:  # noqa: PLR2004 - another job runs for this member
        return RetryLater(code=code, after=retry_after(headers, longest=LONGEST_WAIT), upstream=False)
    if status == 400 and _says_no_oauth(body):  # noqa: PLR2004
        return Unsupported()
    if 300 <= status < 500 and status not in _RETRYABLE:  # noqa: PLR2004
        return RejectedRequest(code=code)
    return RetryLater(code=code, after=retry_after(headers, longest=LONGEST_WAIT))


def _says_no_oauth(body: bytes) -> bool:
    """Whether the body contains ``Member cannot use OAuth`` anywhere: in any JSON, in HTML or in plain text."""
    text = _TAG.sub(" ", html.unescape(body.decode("utf-8", "replace")))
    return _NO_OAUTH.search(text) is not None or any(_NO_OAUTH.search(part) for part in _strings(body))


def _strings(body: bytes) -> list[str]:
    """Every string in a JSON text, with its escapes undone."""
    strings: list[str] = []
    try:
        todo: list[Any] = [parsed(body)]
    except (ValueError, RecursionError):
        return strings
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            strings.append(item)
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
    return strings


def parsed(body: bytes) -> Any:
    """The parsed JSON. A fast, strict parser tries first; Python's lenient one takes the rest, such as a byte-order mark or NaN."""
    try:
        return msgspec.json.decode(body)
    except ValueError:
        return json.loads(body)
