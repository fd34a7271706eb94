"""The configuration of push to browsers. Importing it needs none of the optional packages."""

from dataclasses import dataclass
from pathlib import Path

#: The push services of Chromium browsers, Firefox, Safari and Edge.
KNOWN_HOSTS = ("fcm.googleapis.com", "*.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebPushConfig:
    """One VAPID key; browsers subscribe with its public half."""

    #: The private key on P-256: PEM, or 32 bytes in base64url as ``web-push generate-vapid-keys`` prints them.
    vapid_key_file: Path
    #: ``mailto:`` or ``https://``: where a push service's operator reaches us. Apple and Mozilla require it.
    contact: str
    #: What customers call the product.
    app_name: str
    #: The language if the customer's own has no catalogue; ``None``: English.
    default_locale: str | None = None
    #: Whether the payload contains the message's link. The payload is encrypted: the push service cannot read the link, but every
    #: script of the site can.
    include_link: bool = False
    #: Seconds that the push service keeps the message for a browser that is offline. With 0 it would drop the message.
    ttl: int = 3 * 86_400
    #: Seconds for one request and its answer.
    patience: float = 30.0
    #: Host patterns. Messages are sent only to these hosts, because an endpoint comes from a browser, so anyone can make one up.
    hosts: tuple[str, ...] = KNOWN_HOSTS
    #: Whether an endpoint may also be on this machine, over http too: for development with a push service of your own.
    allow_loopback: bool = False
