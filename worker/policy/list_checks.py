"""Can a list of MX be believed, and which page comes next?

MX lists users and members by pages: "page 3 of 1,000 entries each; there are 4,200". A sync takes a member for gone only after a list
lacks it and MX answers 404 for it. So a list that contradicts itself, or is far too short, ends the sync instead:

- **Shorter by more than a tenth.** Example: 100,000 were known, 89,999 are listed. The cause may be the credentials of another
  environment, or a fault of MX or of ours. A single missing entry is accepted: of five members it would be a fifth.
  `reconnect sync --accept-shorter` accepts any length.
- **Pages that repeat**: no entry of a page is new.
- **Another page** than the one asked for.

If MX lowers the page size silently, paging continues with the new size from the same entry. Example: 1,000 entries a page were asked
for, and one page was taken. The next answer says 25 a page. Entry 1,001 is on page 41 of 25 entries each, so page 41 is asked for.
"""

from dataclasses import dataclass

#: A list that shrinks by more than this share is not believed.
MOST_SHRUNK = 0.1


class ListLies(Exception):  # noqa: N818 - it names what the list does
    """The list contradicts itself; the text says how, in a sentence for the operator."""


def shrank(before: int, now: int) -> bool:
    """Whether a list of ``before`` entries that has ``now`` is too short to be believed. Examples: 20 → 18 no, 20 → 17 yes, 5 → 4 no."""
    missing = before - now
    return missing > 1 and missing > before * MOST_SHRUNK


@dataclass(kw_only=True)
class Position:
    """A position in a list."""

    #: Entries a page, as MX serves them.
    per_page: int
    #: Entries that were taken.
    taken: int = 0
    #: How many entries MX said that there are, in its first answer and in its last.
    first_total: int | None = None
    total: int | None = None
    #: Whether there is no further page.
    ended: bool = False
    #: Whether MX serves fewer entries a page than it was asked for.
    lowered: bool = False

    @property
    def page(self) -> int:
        """The page to be asked for, from 1."""
        return self.taken // self.per_page + 1

    def accepts(self, *, current_page: int, per_page: int, total: int, entries: int, may_shrink: bool = False) -> bool:
        """Whether this page is the next one; if so, the position moves behind it. If not, the page size has changed: ask again.

        ``entries``: the number of entries on the page. Raises :class:`ListLies`.
        """
        if per_page < 1 or entries > per_page:
            raise ListLies(f"a page of {per_page} entries holds {entries}")
        if per_page != self.per_page:
            self.lowered = self.lowered or per_page < self.per_page
            starts_at = (current_page - 1) * per_page
            self.per_page = per_page
            if starts_at != self.taken:
                return False
        elif current_page != self.page:
            raise ListLies(f"page {current_page} came when page {self.page} was asked for")
        self.first_total = total if self.first_total is None else self.first_total
        if shrank(self.first_total, total) and not may_shrink:
            raise ListLies(
                f"it had {self.first_total} entries at first and has {total} at page {current_page}: shorter by more than a tenth"
            )
        self.total = total
        self.taken = (current_page - 1) * per_page + per_page
        self.ended = entries == 0 or self.taken >= total
        return True
