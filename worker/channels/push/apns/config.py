"""What push through APNs has to know; importing this needs none of the optional packages."""

from dataclasses import dataclass
from pathlib import Path

PRODUCTION, SANDBOX = "https://api.push.apple.com", "https://api.sandbox.push.apple.com"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApnsConfig:
    """One app in one of Apple's two environments."""

    #: The ``.p8`` key from Apple's developer site, and the ten characters that it is known by there.
    key_file: Path
    key_id: str
    #: The ten characters of the developer team.
    team_id: str
    #: The app's bundle identifier.
    topic: str
    #: What customers call the product.
    app_name: str
    #: Serves customers whose own language there is not; ``None``: English.
    default_locale: str | None = None
    #: Apple's development environment: its device tokens are others than those of production.
    sandbox: bool = False
    #: Whether the payload carries the message's link. MX's own URI is a secret that Apple would see.
    include_link: bool = False
    #: Seconds that APNs keeps the message for a device that is offline.
    ttl: int = 3 * 86_400
    #: Seconds for one exchange.
    patience: float = 30.0
    #: In place of Apple's own address.
    base_url: str | None = None
