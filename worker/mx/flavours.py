"""What differs between the flavours of MX's API: where to ask, with which headers, and what the answer looks like.

A new flavour is one module with a class of this shape, a line in :mod:`worker.mx.client`, and a value of ``MX_API``.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from yarl import URL

from worker.mx.answers import (
    MemberAnswer,
    MemberListAnswer,
    RefusedClient,
    RetryLater,
    UserListAnswer,
    WindowAnswer,
)

#: The range of page sizes that MX keeps to; outside of it MX silently takes 25.
FEWEST_A_PAGE, MOST_A_PAGE = 10, 1000


class HiddenHeader(str):
    """A header's value that goes over the wire as it is and shows in no repr: not of a header map, not of a traceback's locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


class Flavour(Protocol):
    """One flavour of the API, with the settings that concern it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request carries, credentials included."""

    def window_url(self, user_guid: str, member_guid: str) -> URL:
        """Where a fresh OAuth window is asked for, ready to be sent: nothing in it is quoted again."""

    def member_url(self, user_guid: str, member_guid: str) -> URL:
        """Where a member is read, ready to be sent."""

    def users_url(self, page: int = 1, per_page: int = FEWEST_A_PAGE) -> URL:
        """Where MX lists users: what there always is, whoever is gone."""

    def members_url(self, user_guid: str, page: int, per_page: int) -> URL:
        """Where MX lists a user's members."""

    def classify_window(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        asked: str,
        host_is_allowed: Callable[[str], bool],
    ) -> WindowAnswer:
        """What :meth:`window_url` answered."""

    def classify_users(self, status: int, headers: Mapping[str, str], body: bytes) -> RetryLater | RefusedClient | None:
        """What :meth:`users_url` answered; ``None``: a list of users, so it is MX."""

    def classify_user_list(self, status: int, headers: Mapping[str, str], body: bytes) -> UserListAnswer:
        """What :meth:`users_url` answered, as a page of users."""

    def classify_member_list(
        self, status: int, headers: Mapping[str, str], body: bytes, *, asked: str
    ) -> MemberListAnswer:
        """What :meth:`members_url` answered for the user ``asked``."""

    def classify_member(self, status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberAnswer:
        """What :meth:`member_url` answered."""
