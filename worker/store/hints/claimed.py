"""What a worker holds while it reads a member for its hints, and what becomes of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

#: Members read for one hint that names a user alone.
_MOST_OF_A_USER = 100


class Fence(msgspec.Struct, frozen=True):
    """A claimed hint."""

    key: str
    epoch: int
    times: int


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A member to read at MX."""

    user_guid: str
    #: The GUID to ask MX for.
    asked_guid: str
    #: Our row's, if there is one.
    row_guid: str | None = None


class ClaimedHints(msgspec.Struct, frozen=True, kw_only=True):
    """All due hints of a member, or of a user; this worker holds them."""

    fences: tuple[Fence, ...]
    #: Whom they name.
    guid: str
    #: Empty: nobody knows whose member it is.
    targets: tuple[Target, ...]
    #: Failed attempts.
    attempts: int
    #: Whether the hint names the same user as our row, or either names none.
    same_user: bool = True


class HintResult(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of claimed hints."""

    claim: ClaimedHints
    outcome: str
    #: ``due``, ``done`` or ``failed``.
    state: str = "done"
    next_attempt_at: datetime | None = None
    attempts: int = 0


def claimed_hints(
    guid: str, found: Sequence[Any], known: Any, of_user: Sequence[Any], *, is_member: bool
) -> ClaimedHints:
    """What is claimed of rows that name one member, or one user alone.

    ``known``: our row of the member. ``of_user``: our rows of the user's members, where the hints name no member.
    """
    fences = tuple(Fence(row.key, row.epoch, row.times) for row in found)
    attempts = max(row.attempts for row in found)
    if not is_member:
        targets = tuple(_target(row) for row in of_user[:_MOST_OF_A_USER])
        return ClaimedHints(fences=fences, guid=guid, targets=targets, attempts=attempts)
    said = next((row.user_guid for row in found if row.user_guid is not None), None)
    if known is not None:
        # Our tables may name a user by the client's own id.
        same = said in {None, known.user_guid} or not known.user_guid.startswith("USR-")
        return ClaimedHints(fences=fences, guid=guid, targets=(_target(known),), attempts=attempts, same_user=same)
    targets = () if said is None else (Target(user_guid=said, asked_guid=guid),)
    return ClaimedHints(fences=fences, guid=guid, targets=targets, attempts=attempts)


def _target(row: Any) -> Target:
    return Target(user_guid=row.user_guid, asked_guid=row.moved_to or row.member_guid, row_guid=row.member_guid)
