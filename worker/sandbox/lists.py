"""The lists of users and members: pages as at MX, and the lies that a client must notice."""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

_PAGE_SIZES = range(10, 1001)
_DEFAULT_PAGE_SIZE = 25

_Row = TypeVar("_Row")


class ListRules(BaseModel):
    """How lists lie; the value of ``lists`` in a control command. Without any field they are honest.

    Errors such as a 500 are faults of the bank with ``"on": "list"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    #: A larger page size silently becomes 25, as at MX one above 1,000 does.
    most_per_page: int = Field(1000, ge=10, le=1000)
    #: Lists end so much sooner, and ``total_entries`` says so too: 0.2 leaves out the last fifth of every list.
    shrink: float = Field(0.0, ge=0, le=1)
    #: What ``total_entries`` says instead of the truth.
    total: int | None = Field(None, ge=0)
    #: Each page holds the rows of the first one.
    repeat: bool = False
    #: Users and members that no list holds, though they can be read.
    hide: frozenset[str] = frozenset()
    #: Members that are listed for another user as well: that user's GUID, and theirs.
    also: dict[str, list[str]] = Field(default_factory=dict)
    #: The lies begin after so many requests for lists.
    after: Annotated[int, Field(ge=0)] = 0


class Lists:
    """Cuts lists into pages."""

    def __init__(self) -> None:
        self._rules = ListRules()
        self._asked = 0

    def obey(self, rules: ListRules) -> None:
        """Lie by these rules from now on."""
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
