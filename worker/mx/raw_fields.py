"""Reads fields of MX's JSON. An invalid value counts as missing."""

import re
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from worker.mx.answers import (
    Member,
    MemberState,
    User,
)
from worker.mx.identifiers import is_user_guid

_WORD = re.compile(r"[A-Za-z0-9_]{1,64}")
#: The longest address by RFC 5321. Ids, codes and names are far shorter.
_LONGEST_TEXT = 254


def state_of(guid: str, fields: dict[str, Any]) -> MemberState:
    """The state of a member, from an answer with a window."""
    return MemberState(
        guid=guid,
        connection_status=_status(fields.get("connection_status")),
        is_being_aggregated=_flag(fields.get("is_being_aggregated")),
        successfully_aggregated_at=_moment(fields.get("successfully_aggregated_at")),
        is_oauth=_flag(fields.get("is_oauth")),
        error_code=_error_code(fields.get("error")),
    )


def member_of(guid: str, fields: dict[str, Any], *, listed_for: str | None = None) -> Member:
    """A member with all fields that the answer has.

    ``listed_for``: the user whose members were listed; it is used if the member names no user.
    """
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


def user_of(fields: dict[str, Any]) -> User:
    """A user, whose GUID was checked by the caller."""
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
    """A status as one word, even if it is unknown; any other text counts as missing, since logs and columns could not take it."""
    return _word(value) if isinstance(value, str) else None


@lru_cache(maxsize=64)  # nearly all answers have one of a dozen statuses
def _word(value: str) -> str | None:
    return value.upper() if _WORD.fullmatch(value) else None


def _error_code(error: object) -> int | None:
    code = error.get("error_code") if isinstance(error, dict) else None
    if isinstance(code, str) and re.fullmatch("[0-9]{1,6}", code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) and 0 <= code < 1_000_000 else None  # noqa: PLR2004


def _moment(value: object) -> datetime | None:
    """A moment in ISO 8601; in UTC if it names no zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
