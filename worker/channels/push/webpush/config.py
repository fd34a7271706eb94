"""What push to browsers has to know; importing this needs none of the optional packages."""

from dataclasses import dataclass
from pathlib import Path

#: The push services of Chrome and its relatives, Firefox, Safari and Edge.
KNOWN_HOSTS = ("fcm.googleapis.com", "*.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebPushConfig:
    """One VAPID key; browsers subscribe with its public half."""

    #: The private key, on P-256: PEM, or 32 bytes in base64url as ``web-push generate-vapid-keys`` prints them.
    vapid_key_file: Path
    #: ``mailto:`` or ``https://``: where a push service's operator finds us. Apple and Mozilla insist on it.
    contact: str
    #: What customers call the product.
    app_name: str
    #: Serves customers whose own language there is not; ``None``: English.
    default_locale: str | None = None
    #: Whether the (encrypted) payload carries the message's link. The push service cannot read it, the browser's own
    #: storage and every script of the site can.
    include_link: bool = False
    #: Seconds that the push service keeps the message for a browser that is offline; 0 would lose it.
    ttl: int = 3 * 86_400
    #: Seconds for one exchange.
    patience: float = 30.0
    #: Host patterns. The endpoint comes from a browser, so from anybody: only to these hosts is anything sent.
    hosts: tuple[str, ...] = KNOWN_HOSTS
    #: Whether an endpoint may also be on this machine, over http too: for a push service of your own to develop against.
    allow_loopback: bool = False
