"""What push through FCM has to know; importing this needs none of the optional packages."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class FcmConfig:
    """One Firebase project."""

    #: The service account's JSON key, as Google's console hands it out; it names the project and the token endpoint too.
    service_account_file: Path
    #: What customers call the product.
    app_name: str
    #: Serves customers whose own language there is not; ``None``: English.
    default_locale: str | None = None
    #: Whether the payload carries the message's link. MX's own URI is a secret that Google would see.
    include_link: bool = False
    #: Seconds that FCM keeps the message for a device that is offline; at most four weeks. A device is given at most four
    #: messages that it missed, so this is no longer than the usual time between reminders.
    ttl: int = 3 * 86_400
    #: Seconds for one exchange.
    patience: float = 30.0
    base_url: str = "https://fcm.googleapis.com"
    #: In place of the key file's own ``token_uri``.
    token_uri: str | None = None
