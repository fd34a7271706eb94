"""The configuration of push through FCM. Importing it needs none of the optional packages."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class FcmConfig:
    """One Firebase project."""

    #: The service account's JSON key from Google's console. It also names the project and the token endpoint.
    service_account_file: Path
    #: What customers call the product.
    app_name: str
    #: The language if the customer's own has no catalogue; ``None``: English.
    default_locale: str | None = None
    #: Whether the payload contains the message's link. If the link is MX's own URI, Google sees that secret.
    include_link: bool = False
    #: Seconds that FCM keeps the message for a device that is offline, at most four weeks. FCM keeps at most four messages with
    #: different ids for a device, so the default is three days, the usual time between reminders.
    ttl: int = 3 * 86_400
    #: Seconds for one request and its answer.
    patience: float = 30.0
    base_url: str = "https://fcm.googleapis.com"
    #: Replaces the ``token_uri`` of the key file.
    token_uri: str | None = None
