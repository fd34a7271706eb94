"""The Platform flavour, version v20250224 (MX's OpenAPI file of that name, *Request oauth window uri*)."""

import base64
from collections.abc import Mapping
from typing import ClassVar

from worker.mx.flavours import Flavour, HiddenHeader
from worker.settings import Settings

VERSION = "v20250224"


class Platform(Flavour):
    """Platform: HTTP Basic, and the version in a header. The answer with a window has only a GUID and a URI.

    Requests may name users and members by the client's own ids instead of GUIDs.
    """

    window_tells_status: ClassVar[bool] = False

    def _headers(self, settings: Settings) -> Mapping[str, str]:
        pair = f"{settings.mx_client_id.get_secret_value()}:{settings.mx_api_key.get_secret_value()}"
        return {
            "Accept": "application/json",
            "Accept-Version": VERSION,
            "Authorization": HiddenHeader(f"Basic {base64.b64encode(pair.encode()).decode()}"),
        }

    def _window_parameters(self, settings: Settings) -> dict[str, str]:
        """``enable_app2app`` is sent only as ``false``: ``true`` is MX's default."""
        parameters = super()._window_parameters(settings)
        return parameters if settings.mx_enable_app2app else parameters | {"enable_app2app": "false"}
