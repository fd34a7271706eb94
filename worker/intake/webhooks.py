"""Reads the body of a webhook of MX as hints.

A webhook has no id, no time and no signature. MX repeats one up to 12 times within about a day, so it may be late, doubled or out of
order. So a hint means only: read this member at MX, or this user's members. The other fields are stored for operators and not acted on.

Fields may be null, missing or new. A body that names neither becomes a hint too, which is counted and shown.
"""

import hashlib
import json
import re
from collections import deque
from typing import Any

import msgspec

from worker.mx.identifiers import is_member_guid, is_user_guid
from worker.store.hints.arriving import OTHER, UNREADABLE, Hint

#: The most bytes of a body. MX's have less than 1 KB.
MOST_BYTES = 65_536
#: The most hints in one body, if it is a list.
_MOST_HINTS = 1_000
#: The most values of a body that are searched for a GUID.
_MOST_VALUES = 1_000
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NOT_LETTERS = re.compile(r"[^a-z]")


def hints_in(body: bytes) -> list[Hint]:
    """The hints in a body: one, or one for each entry of a list. Anything but a JSON object becomes a hint of the kind :data:`UNREADABLE`."""
    try:
        payload = _parsed(body)
        if isinstance(payload, list) and payload and len(payload) <= _MOST_HINTS:
            return [_hint(each) for each in payload]
        return [_hint(payload)]
    except (ValueError, RecursionError):
        return [Hint(key=hashlib.sha256(body).hexdigest(), kind=UNREADABLE)]


def _parsed(body: bytes) -> Any:
    """Parse with msgspec, which is strict and fast; if it refuses (a byte-order mark, a NaN), with Python's lenient parser."""
    try:
        return msgspec.json.decode(body)
    except ValueError:
        return json.loads(body)


def _hint(payload: Any) -> Hint:
    key = hashlib.sha256(msgspec.json.encode(payload, order="deterministic")).hexdigest()
    if not isinstance(payload, dict):
        return Hint(key=key, kind=UNREADABLE)
    member_guid, user_guid = payload.get("member_guid"), payload.get("user_guid")
    if not is_member_guid(member_guid):
        member_guid = _guid_under(payload, "memberguid", is_member_guid) or _guid_under(payload, "guid", is_member_guid)
    if not is_user_guid(user_guid):
        user_guid = _guid_under(payload, "userguid", is_user_guid)
    return Hint(
        key=key,
        kind=_word(payload.get("type")) or OTHER,
        action=_word(payload.get("action")),
        connection_status=_word(payload.get("connection_status")),
        member_guid=member_guid,
        user_guid=user_guid,
    )


def _word(value: object) -> str | None:
    """A word in upper case, known or not; ``None`` for any other text, which might not suit a log or a column."""
    return value.upper() if isinstance(value, str) and _WORD.fullmatch(value) else None


def _guid_under(payload: Any, name: str, is_guid: Any) -> str | None:
    """The first GUID under a field of this name (``memberGuid`` and ``member-guid`` are ``memberguid``), the outermost first."""
    waiting, seen = deque([payload]), 0
    while waiting and seen < _MOST_VALUES:
        value = waiting.popleft()
        seen += 1
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for field, inner in value.items():
                if isinstance(inner, str):
                    if is_guid(inner) and _NOT_LETTERS.sub("", field.lower()) == name:
                        return inner
                else:
                    waiting.append(inner)
    return None
