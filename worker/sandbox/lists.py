"""The lists of users and members: pages as at MX, and wrong lists that a client must notice."""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

_PAGE_SIZES = range(10, 1001)
_DEFAULT_PAGE_SIZE = 25

_Row = TypeVar("_Row")


class ListRules(BaseModel):
    """Which wrong lists are served; the value of ``lists`` in a control command. Without any field the lists are right.

    Errors such as a 500 are faults of the bank with ``"on": "list"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    #: A larger page size silently becomes 25; at MX that happens above 1,000.
    most_per_page: int = Field(1000, ge=10, le=1000)
    #: The share that is missing at the end of every list, also from ``total_entries``: 0.2 leaves out the last fifth.
    shrink: float = Field(0.0, ge=0, le=1)
    #: Replaces ``total_entries``.
    total: int | None = Field(None, ge=0)
    #: Each page has the rows of the first one.
    repeat: bool = False
    #: Users and members that are missing from every list, though they can be read.
    hide: frozenset[str] = frozenset()
    #: Members that are listed for another user as well: by that user's GUID, the members' GUIDs.
    also: dict[str, list[str]] = Field(default_factory=dict)
    #: These rules begin after this many requests for lists.
    after: Annotated[int, Field(ge=0)] = 0


class Lists:
    """Cuts lists into pages."""

    def __init__(self) -> None:
        self._rules = ListRules()
        self._asked = 0

    def obey(self, rules: ListRules) -> None:
        """Serve lists by these rules from now on."""
        self._rules, self._asked = rules, 0

    def rules(self) -> ListRules:
        """The rules for one request."""
        self._asked += 1
        return self._rules if self._asked > self._rules.after else ListRules()


def paginated(
    rows: Sequence[_Row], query: Mapping[str, str], rules: ListRules | None = None
) -> tuple[Sequence[_Row], dict[str, int]]:
    """One page of ``rows`` and MX's description of it. As at MX, a page size out of range silently becomes 25."""
    rules = rules or ListRules()
    if rules.shrink:
        rows = rows[: len(rows) - int(len(rows) * rules.shrink)]
    size = _number(query.get("records_per_page"))
    if size not in _PAGE_SIZES or size > rules.most_per_page:
        size = _DEFAULT_PAGE_SIZE
    page = max(1, _number(query.get("page")))
    total = len(rows) if rules.total is None else rules.total
    first = 0 if rules.repeat else (page - 1) * size
    pagination = {
        "current_page": page,
        "per_page": size,
        "total_entries": total,
        "total_pages": max(1, -(-total // size)),
    }
    return rows[first : first + size], pagination


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else 0  # noqa: PLR2004
