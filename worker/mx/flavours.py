"""The common part of the flavours of MX's API: paths, parameters, pages, and how answers are read.

A flavour needs a module with a subclass of :class:`Flavour` for the differences, a line in :mod:`worker.mx.client`, and a value of
``MX_API`` with its base URL (``worker/settings/values.py``).

MX's version of 2026 replaces the request for a window by one that creates it and answers with ``authorization_url``. Its module would
set :attr:`Flavour.window_body`, and override :meth:`Flavour.window_url` and :meth:`Flavour.classify_window`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar
from urllib.parse import quote, urlencode

from yarl import URL

from worker.mx import classifying
from worker.mx.answers import (
    MemberAnswer,
    MemberListAnswer,
    RefusedClient,
    RetryLater,
    UserListAnswer,
    WindowAnswer,
)
from worker.mx.identifiers import is_member_guid, is_user_guid
from worker.settings import Settings

#: The smallest page size of MX. For a size out of its range MX silently uses 25.
FEWEST_A_PAGE = 10


class HiddenHeader(str):
    """A header's value that is sent unchanged but never shown by repr: neither in a header map nor in a traceback's locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


class Flavour(ABC):
    """One flavour of the API, with the settings that concern it."""

    #: Whether the answer with a window also has the state of the member. If not, the member is read separately at a click
    #: (:mod:`worker.mx.client`) and right before a message leaves (:mod:`worker.stages.freshness`), to see whether it is back.
    window_tells_status: ClassVar[bool] = True
    #: The JSON to POST when a window is asked for; ``None``: it is a GET.
    window_body: bytes | None = None

    def __init__(self, settings: Settings) -> None:
        #: The headers of every request, credentials included.
        self.headers: Mapping[str, str] = self._headers(settings)
        base = URL(settings.mx_base_url)
        self._users = base.raw_path.rstrip("/") + "/users"
        self._base = base.with_query(None)
        # Parsed once: each call only replaces the path.
        query = urlencode(self._window_parameters(settings), quote_via=quote, safe="")
        self._window = URL(f"{self._base}?{query}", encoded=True)
        self._pages: dict[tuple[int, int], URL] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base})"

    @abstractmethod
    def _headers(self, settings: Settings) -> Mapping[str, str]:
        """The headers of every request. Credentials are :class:`HiddenHeader`."""

    def _window_parameters(self, settings: Settings) -> dict[str, str]:
        """The parameters of the request for a window.

        ``skip_aggregation`` is sent only if it is ``true``: MX documents ``true`` but not ``false``, and a member that is wrongly not
        aggregated stays without data. The last two are ``None`` unless the source is ``APP``.
        """
        parameters = {
            "skip_aggregation": "true" if settings.mx_skip_aggregation else None,
            "referral_source": settings.mx_referral_source,
            "client_redirect_url": settings.client_redirect_url,
            "ui_message_webview_url_scheme": settings.mx_ui_message_webview_url_scheme,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    def window_url(self, user: str, member: str) -> URL:
        """The URL that gives a fresh OAuth window. It is fully encoded already."""
        return self._window.with_path(f"{self._member(user, member)}/oauth_window_uri", encoded=True, keep_query=True)

    def member_url(self, user: str, member: str) -> URL:
        """The URL of a member, fully encoded."""
        return self._base.with_path(self._member(user, member), encoded=True)

    def users_url(self, page: int = 1, per_page: int = FEWEST_A_PAGE) -> URL:
        """The URL of the list of users, which MX always has."""
        return self._page(self._users, page, per_page)

    def members_url(self, user: str, page: int, per_page: int) -> URL:
        """The URL of the list of a user's members."""
        return self._page(f"{self._user(user)}/members", page, per_page)

    def _page(self, path: str, page: int, per_page: int) -> URL:
        # Parsed once for all lists of a sync: each call only replaces the path.
        key = (page, per_page)
        if (url := self._pages.get(key)) is None:
            url = self._base.with_query(f"page={page}&records_per_page={per_page}")
            if page == 1:
                self._pages[key] = url
        return url.with_path(path, encoded=True, keep_query=True)

    def _user(self, user: str) -> str:
        # Applications may write any text into their columns. A valid GUID of MX needs no quoting.
        return f"{self._users}/{user if is_user_guid(user) else quote(user, safe='')}"

    def _member(self, user: str, member: str) -> str:
        return f"{self._user(user)}/members/{member if is_member_guid(member) else quote(member, safe='')}"

    def classify_window(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        asked: str,
        host_is_allowed: Callable[[str], bool],
    ) -> WindowAnswer:
        """Classify the answer from :meth:`window_url`."""
        return classifying.classify_window(status, headers, body, asked=asked, host_is_allowed=host_is_allowed)

    def classify_member(self, status: int, headers: Mapping[str, str], body: bytes, *, asked: str) -> MemberAnswer:
        """Classify the answer from :meth:`member_url`."""
        return classifying.classify_member(status, headers, body, asked=asked)

    def classify_users(self, status: int, headers: Mapping[str, str], body: bytes) -> RetryLater | RefusedClient | None:
        """Classify the answer from :meth:`users_url`; ``None``: a list of users, so MX answered."""
        return classifying.classify_users(status, headers, body)

    def classify_user_list(self, status: int, headers: Mapping[str, str], body: bytes) -> UserListAnswer:
        """Classify the answer from :meth:`users_url` as a page of users."""
        return classifying.classify_user_list(status, headers, body)

    def classify_member_list(
        self, status: int, headers: Mapping[str, str], body: bytes, *, asked: str
    ) -> MemberListAnswer:
        """Classify the answer from :meth:`members_url` for the user ``asked``."""
        return classifying.classify_member_list(status, headers, body, asked=asked)
