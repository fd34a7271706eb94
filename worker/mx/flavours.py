"""What differs between the flavours of MX's API: where to ask, with which headers, and what the answer looks like.

A new flavour is one module with a class of this shape, a line in :mod:`worker.mx.client`, and a value of ``MX_API``.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from yarl import URL

from worker.mx.answers import MemberAnswer, RefusedClient, RetryLater, WindowAnswer


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

    def users_url(self) -> URL:
        """Where MX lists users: what there always is, whoever is gone."""

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

    def classify_member(self, status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberAnswer:
        """What :meth:`member_url` answered."""
