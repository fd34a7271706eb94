"""The configuration of push through APNs. Importing it needs none of the optional packages."""

from dataclasses import dataclass
from pathlib import Path

PRODUCTION, SANDBOX = "https://api.push.apple.com", "https://api.sandbox.push.apple.com"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApnsConfig:
    """One app in one of Apple's two environments."""

    #: The ``.p8`` key from Apple's developer site, and its key id of ten characters.
    key_file: Path
    key_id: str
    #: The developer team's id, ten characters.
    team_id: str
    #: The app's bundle identifier.
    topic: str
    #: What customers call the product.
    app_name: str
    #: The language if the customer's own has no catalogue; ``None``: English.
    default_locale: str | None = None
    #: Apple's development environment. A device token of one environment is invalid in the other.
    sandbox: bool = False
    #: Whether the payload contains the message's link. If the link is MX's own URI, Apple sees that secret.
    include_link: bool = False
    #: Seconds that APNs keeps the message for a device that is offline.
    ttl: int = 3 * 86_400
    #: Seconds for one request and its answer.
    patience: float = 30.0
    #: Replaces Apple's address.
    base_url: str | None = None
