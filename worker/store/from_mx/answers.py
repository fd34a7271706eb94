"""MX's answers about users and members, our rows, and what to write where they differ. No I/O."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, Integer, Text

from worker.policy.selection import ERROR_CODES
from worker.store.sql.tables import members

m = members.c


class MxUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user as MX lists it."""

    user_guid: str
    #: One mailbox, checked; ``None``: MX names none, or it must not be copied.
    email: str | None = None
    #: The client's own id of the user; our tables may use it instead of the GUID.
    own_id: str | None = None

    def __repr__(self) -> str:
        return f"MxUser({self.user_guid})"


class MxMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member as MX describes it. ``None``: MX does not say."""

    user_guid: str
    #: The GUID that MX answered with.
    member_guid: str
    #: The GUID that MX was asked for, if it is another one: our row has it.
    asked_guid: str | None = None
    #: The client's own id of the member; our row may use it instead of the GUID.
    own_id: str | None = None
    connection_status: str | None = None
    is_oauth: bool | None = None
    institution_code: str | None = None
    #: Written only into a row that has none.
    institution_name: str | None = None
    error_code: int | None = None
    #: Whether MX's answer has a place for an error, so that ``error_code=None`` means "no error".
    tells_error: bool = False
    is_managed_by_user: bool | None = None
    is_being_aggregated: bool | None = None
    successfully_aggregated_at: datetime | None = None


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch of answers changed, as numbers of members; ``back`` counts reconnections."""

    #: Rows that are new.
    inserted: int = 0
    #: Rows that were written because MX's answer differs, and members that MX knows again after a 404.
    changed: int = 0
    unchanged: int = 0
    #: Reconnections closed as `reconnected`.
    back: int = 0
    #: Rows for which MX now answered with another GUID.
    moved: int = 0
    #: Skipped: a partner manages it.
    managed: int = 0
    #: Skipped: MX names another user than our row, or two users. The members' GUIDs.
    of_others: tuple[str, ...] = ()
    #: Skipped: a reconnection of the member ended after MX was asked.
    overtaken: int = 0

    def __add__(self, other: "Applied") -> "Applied":
        return Applied(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class OurMember(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a row of ``members`` that MX's answer can change."""

    member_guid: str
    user_guid: str
    connection_status: str | None
    is_oauth: bool | None
    institution_code: str | None
    institution_name: str | None
    error_code: int | None
    moved_to: str | None
    is_gone: bool


#: What to select for an :class:`OurMember`, in the order of its fields.
OUR_MEMBER: Sequence[ColumnElement[Any]] = (
    *(m[name] for name in OurMember.__struct_fields__ if name != "is_gone"),
    m.gone_at.is_not(None).label("is_gone"),
)


def says_nothing_new(answer: MxMember, row: OurMember) -> bool:
    """Whether our row already has what MX says. An open reconnection of the member may be over all the same."""
    is_ours = row.user_guid == answer.user_guid and answer.is_managed_by_user is not False
    return is_ours and difference(answer, row) is None


def first_of_each(answers: Iterable[MxMember]) -> tuple[list[MxMember], Applied]:
    """The first answer about each member, and the counts of answers that are skipped whatever our rows hold."""
    first: dict[str, MxMember] = {}
    managed, of_others = 0, []
    for answer in answers:
        if answer.is_managed_by_user is False:
            managed += 1
        elif (before := first.setdefault(answer.member_guid, answer)) is not answer:
            of_others += [answer.member_guid] if before.user_guid != answer.user_guid else []
    return list(first.values()), Applied(managed=managed, of_others=tuple(of_others))


def difference(answer: MxMember, row: OurMember) -> dict[str, Any] | None:
    """What to write into the row; ``None``: nothing. A column with ``None`` keeps its value, except ``moved_to``."""
    change: dict[str, Any] = {
        name: value
        for name in ("connection_status", "is_oauth", "institution_code", "error_code")
        if (value := getattr(answer, name)) is not None and value != getattr(row, name)
    }
    if row.institution_name is None and answer.institution_name is not None:
        change["institution_name"] = answer.institution_name
    if answer.tells_error and answer.error_code is None and row.error_code in ERROR_CODES:
        change["clears_error"] = True
    moved_to = answer.member_guid if row.member_guid not in {answer.member_guid, answer.own_id} else None
    if not change and moved_to == row.moved_to and not row.is_gone:
        return None
    return {**dict.fromkeys(WRITTEN), **change, "member_guid": row.member_guid, "moved_to": moved_to}


#: The columns of an update, beside the GUID.
WRITTEN: dict[str, Any] = {
    "connection_status": Text(),
    "is_oauth": Boolean(),
    "institution_code": Text(),
    "institution_name": Text(),
    "error_code": Integer(),
    "clears_error": Boolean(),
    "moved_to": Text(),
}
