"""List the members of one user at MX, all pages, and notice contradictions in the list."""

from collections.abc import Mapping, Sequence

import msgspec

from worker.mx.answers import Failure, Gone, Member, MemberList, UserList
from worker.mx.client import Mx
from worker.policy.list_checks import ListLies, Position
from worker.store.from_mx.answers import MxMember

#: Entries of one page, as asked for.
MEMBERS_A_PAGE = 100
#: A list of one user's members with more pages than this is not believed.
_MOST_PAGES = 200


class ListedMembers(msgspec.Struct, kw_only=True):
    """MX's list of one user's members, all pages."""

    members: dict[str, Member] = {}
    unreadable: int = 0
    #: Why the list could not be read.
    failure: Failure | None = None
    #: MX does not know the user.
    is_gone: bool = False
    #: How the list contradicts itself. If it does, a member that it lacks does not count as missing.
    lie: str = ""

    def oddities(self) -> dict[str, int]:
        """What is wrong with the list, under the names that a sync counts by."""
        return {"unreadable": self.unreadable, "contradicted": int(bool(self.lie))}


async def members_of(mx: Mx, user_guid: str) -> ListedMembers:
    """List the members of one user."""
    answer = await mx.list_members(user_guid, 1, MEMBERS_A_PAGE)
    if isinstance(answer, MemberList) and _is_all(answer):  # nearly always
        return ListedMembers(members={member.guid: member for member in answer.members})
    listed, position = ListedMembers(members={}), Position(per_page=MEMBERS_A_PAGE)
    for _ in range(_MOST_PAGES):
        if isinstance(answer, Gone):  # deleted since its page was read
            listed.is_gone = True
            return listed
        if not isinstance(answer, MemberList):
            listed.failure = answer
            return listed
        try:
            is_next = accepts(position, answer, len(answer.members), may_shrink=True)
        except ListLies as lie:
            listed.lie = str(lie)
            return listed
        if is_next:
            count_before = len(listed.members)
            listed.members.update((member.guid, member) for member in answer.members)
            listed.unreadable += answer.unreadable
            if count_before == len(listed.members) and answer.members:
                listed.lie = "its pages repeat"
        if position.ended or listed.lie:
            break
        answer = await mx.list_members(user_guid, position.page, position.per_page)
    else:
        listed.lie = f"it has no end after {_MOST_PAGES} pages"
    if not listed.lie and len(listed.members) + listed.unreadable < (position.total or 0):
        listed.lie = f"it says that it has {position.total} entries, and holds {len(listed.members)}"
    return listed


def _is_all(page: MemberList) -> bool:
    """Whether a first page holds the whole list."""
    pagination = page.pagination
    return (
        pagination.current_page == 1
        and pagination.total_entries == len(page.members) <= pagination.per_page == MEMBERS_A_PAGE
        and not page.unreadable
    )


def not_listed(mx_members: Sequence[MxMember], known: Mapping[str, str | None]) -> list[str]:
    """Which of our rows a list lacks. ``known``: their GUIDs, each with the GUID to which it moved."""
    names = {name for member in mx_members for name in (member.member_guid, member.own_id) if name is not None}
    return [guid for guid, moved in known.items() if guid not in names and moved not in names]


def accepts(position: Position, page: UserList | MemberList, rows: int, *, may_shrink: bool) -> bool:
    """Call :meth:`Position.accepts` for a page with ``rows`` readable entries."""
    pagination = page.pagination
    return position.accepts(
        current_page=pagination.current_page,
        per_page=pagination.per_page,
        total=pagination.total_entries,
        entries=rows + page.unreadable,
        may_shrink=may_shrink,
    )
