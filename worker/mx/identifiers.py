"""The form of MX's identifiers.

Most have a prefix and a UUID, but shorter and longer ones exist. So only prefix, alphabet and length are checked.
"""

import re
from typing import TypeGuard

#: Characters, prefix included.
MAX_LENGTH = 128

_REST = rf"[A-Za-z0-9_-]{{1,{MAX_LENGTH - 4}}}"
#: The whole GUID of a user, and of a member.
USER = re.compile("USR-" + _REST)
MEMBER = re.compile("MBR-" + _REST)


#: The whole of an id that a client gave to a user or a member: letters, digits, ``-`` and ``_``.
OWN_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_LENGTH}}}")


def is_user_guid(value: object) -> TypeGuard[str]:
    """Whether a value can be the GUID of a user at MX: ``USR-…``, letters, digits, ``-`` and ``_``."""
    return isinstance(value, str) and USER.fullmatch(value) is not None


def is_member_guid(value: object) -> TypeGuard[str]:
    """Whether a value can be the GUID of a member at MX: ``MBR-…``, letters, digits, ``-`` and ``_``."""
    return isinstance(value, str) and MEMBER.fullmatch(value) is not None


def names_user(value: object, *, own_ids: bool) -> TypeGuard[str]:
    """Whether a value can name a user: a GUID; with ``own_ids`` (``Settings.own_ids``) also an own id, but never a member's GUID."""
    return is_user_guid(value) or (own_ids and _is_own_id(value) and not value.startswith("MBR-"))


def names_member(value: object, *, own_ids: bool) -> TypeGuard[str]:
    """As :func:`names_user`, for a member."""
    return is_member_guid(value) or (own_ids and _is_own_id(value) and not value.startswith("USR-"))


def _is_own_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and OWN_ID.fullmatch(value) is not None
