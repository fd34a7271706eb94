"""Claimed hints, whose members a worker reads at MX, and their results."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from worker.policy.hint_states import HintState

#: At most so many members are read for a hint that names only a user.
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
    #: The GUID of our row, if there is one.
    row_guid: str | None = None


class ClaimedHints(msgspec.Struct, frozen=True, kw_only=True):
    """All due hints of a member or of a user, claimed by this worker."""

    fences: tuple[Fence, ...]
    #: The member, or user, that they name.
    guid: str
    #: The members to read. Empty: the member's user is unknown, or we have no member of the user.
    targets: tuple[Target, ...]
    #: Failed attempts.
    attempts: int
    #: Whether the hint names the same user as our row, or either names none.
    same_user: bool = True


class HintResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of claimed hints."""

    claim: ClaimedHints
    outcome: str
    state: HintState = HintState.DONE
    next_attempt_at: datetime | None = None
    attempts: int = 0


def claimed_hints(
    guid: str, rows: Sequence[Any], known: Any, of_user: Sequence[Any], *, is_member: bool
) -> ClaimedHints:
    """Claimed rows that name the same member, or only the same user, as one value.

    ``known``: our row of the member. ``of_user``: our rows of the user's members, if the hints name no member.
    """
    fences = tuple(Fence(row.key, row.epoch, row.times) for row in rows)
    attempts = max(row.attempts for row in rows)
    if not is_member:
        targets = tuple(_target(row) for row in of_user[:_MOST_OF_A_USER])
        return ClaimedHints(fences=fences, guid=guid, targets=targets, attempts=attempts)
    user_guid = next((row.user_guid for row in rows if row.user_guid is not None), None)
    if known is not None:
        # Our tables may name a user by the client's own id.
        same = user_guid in {None, known.user_guid} or not known.user_guid.startswith("USR-")
        return ClaimedHints(fences=fences, guid=guid, targets=(_target(known),), attempts=attempts, same_user=same)
    targets = () if user_guid is None else (Target(user_guid=user_guid, asked_guid=guid),)
    return ClaimedHints(fences=fences, guid=guid, targets=targets, attempts=attempts)


def _target(row: Any) -> Target:
    return Target(user_guid=row.user_guid, asked_guid=row.moved_to or row.member_guid, row_guid=row.member_guid)
