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


class MembersSaid(msgspec.Struct, kw_only=True):
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


async def members_of(mx: Mx, user_guid: str) -> MembersSaid:
    """List the members of one user."""
    answer = await mx.list_members(user_guid, 1, MEMBERS_A_PAGE)
    if isinstance(answer, MemberList) and _is_all(answer):  # nearly always
        return MembersSaid(members={member.guid: member for member in answer.members})
    found, position = MembersSaid(members={}), Position(per_page=MEMBERS_A_PAGE)
    for _ in range(_MOST_PAGES):
        if isinstance(answer, Gone):  # deleted since its page was read
            found.is_gone = True
            return found
        if not isinstance(answer, MemberList):
            found.failure = answer
            return found
        try:
            is_next = accepts(position, answer, len(answer.members), may_shrink=True)
        except ListLies as lie:
            found.lie = str(lie)
            return found
        if is_next:
            before = len(found.members)
            found.members.update((member.guid, member) for member in answer.members)
            found.unreadable += answer.unreadable
            if before == len(found.members) and answer.members:
                found.lie = "its pages repeat"
        if position.ended or found.lie:
            break
        answer = await mx.list_members(user_guid, position.page, position.per_page)
    else:
        found.lie = f"it has no end after {_MOST_PAGES} pages"
    if not found.lie and len(found.members) + found.unreadable < (position.total or 0):
        found.lie = f"it says that it has {position.total} entries, and holds {len(found.members)}"
    return found


def _is_all(page: MemberList) -> bool:
    """Whether a first page holds the whole list."""
    said = page.pagination
    return (
        said.current_page == 1
        and said.total_entries == len(page.members) <= said.per_page == MEMBERS_A_PAGE
        and not page.unreadable
    )


def not_listed(heard: Sequence[MxMember], known: Mapping[str, str | None]) -> list[str]:
    """Which of our rows a list lacks. ``known``: their GUIDs, each with the GUID to which it moved."""
    names = {name for member in heard for name in (member.member_guid, member.own_id) if name is not None}
    return [guid for guid, moved in known.items() if guid not in names and moved not in names]


def accepts(position: Position, page: UserList | MemberList, rows: int, *, may_shrink: bool) -> bool:
    """Call :meth:`Position.accepts` for a page with ``rows`` readable entries."""
    said = page.pagination
    return position.accepts(
        current_page=said.current_page,
        per_page=said.per_page,
        total=said.total_entries,
        entries=rows + page.unreadable,
        may_shrink=may_shrink,
    )
