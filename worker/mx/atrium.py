"""The Atrium flavour (mx-atrium-oauth-window-uri.txt, *Generate OAuth Window URI*)."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from yarl import URL

from worker.mx.classifying import (
    classify_member,
    classify_member_list,
    classify_user_list,
    classify_users,
    classify_window,
)
from worker.mx.flavours import FEWEST_A_PAGE, HiddenHeader
from worker.mx.identifiers import is_member_guid, is_user_guid
from worker.settings import Settings


class Atrium:
    """Atrium, version 1: credentials in two headers, the whole member in every answer."""

    classify_window = staticmethod(classify_window)
    classify_member = staticmethod(classify_member)
    classify_users = staticmethod(classify_users)
    classify_user_list = staticmethod(classify_user_list)
    classify_member_list = staticmethod(classify_member_list)

    def __init__(self, settings: Settings) -> None:
        self.headers: Mapping[str, str] = {
            "Accept": "application/vnd.mx.atrium.v1+json",
            "MX-API-Key": HiddenHeader(settings.mx_api_key.get_secret_value()),
            "MX-Client-ID": HiddenHeader(settings.mx_client_id.get_secret_value()),
        }
        base = URL(settings.mx_base_url)
        self._users = base.raw_path.rstrip("/") + "/users/"
        self._base = base.with_query(None)
        # Parsed once: each call puts another path into it.
        query = urlencode(_window_parameters(settings), quote_via=quote, safe="")
        self._window = URL(f"{self._base}?{query}", encoded=True)

    def __repr__(self) -> str:
        return f"Atrium({self._base})"

    def window_url(self, user_guid: str, member_guid: str) -> URL:
        """``GET /users/{user_guid}/members/{member_guid}/oauth_window_uri?…``."""
        path = f"{self._member(user_guid, member_guid)}/oauth_window_uri"
        return self._window.with_path(path, encoded=True, keep_query=True)

    def member_url(self, user_guid: str, member_guid: str) -> URL:
        """``GET /users/{user_guid}/members/{member_guid}``."""
        return self._base.with_path(self._member(user_guid, member_guid), encoded=True)

    def users_url(self, page: int = 1, per_page: int = FEWEST_A_PAGE) -> URL:
        """``GET /users``; without arguments as few as may be."""
        return self._page(self._users.rstrip("/"), page, per_page)

    def members_url(self, user_guid: str, page: int, per_page: int) -> URL:
        """``GET /users/{user_guid}/members``."""
        return self._page(f"{self._user(user_guid)}/members", page, per_page)

    def _page(self, path: str, page: int, per_page: int) -> URL:
        return self._base.with_path(path, encoded=True).with_query(f"page={page}&records_per_page={per_page}")

    def _user(self, user_guid: str) -> str:
        # Applications write what they like into their columns; what is an identifier of MX's needs no quoting.
        return self._users + (user_guid if is_user_guid(user_guid) else quote(user_guid, safe=""))

    def _member(self, user_guid: str, member_guid: str) -> str:
        member = member_guid if is_member_guid(member_guid) else quote(member_guid, safe="")
        return f"{self._user(user_guid)}/members/{member}"


def _window_parameters(settings: Settings) -> dict[str, str]:
    """The endpoint's four parameters.

    ``skip_aggregation`` goes only when it is wanted: its page says what ``true`` does and nothing of ``false``, and a member
    that is wrongly not aggregated stays without data. The last two are ``None`` unless the source is ``APP``.
    """
    parameters = {
        "skip_aggregation": "true" if settings.mx_skip_aggregation else None,
        "referral_source": settings.mx_referral_source,
        "client_redirect_url": settings.client_redirect_url,
        "ui_message_webview_url_scheme": settings.mx_ui_message_webview_url_scheme,
    }
    return {name: value for name, value in parameters.items() if value is not None}
