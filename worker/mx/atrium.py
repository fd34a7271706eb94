"""The Atrium flavour (mx-atrium-oauth-window-uri.txt, *Generate OAuth Window URI*)."""

from collections.abc import Mapping

from worker.mx.flavours import Flavour, HiddenHeader
from worker.settings import Settings


class Atrium(Flavour):
    """Atrium, version 1: credentials in two headers, the whole member in every answer."""

    def _headers(self, settings: Settings) -> Mapping[str, str]:
        return {
            "Accept": "application/vnd.mx.atrium.v1+json",
            "MX-API-Key": HiddenHeader(settings.mx_api_key.get_secret_value()),
            "MX-Client-ID": HiddenHeader(settings.mx_client_id.get_secret_value()),
        }
