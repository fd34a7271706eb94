"""A browser's subscription, as ``JSON.stringify(subscription)`` gives it: the endpoint to post to, and the keys to encrypt with.

It comes from a browser, so it may be any text. An invalid subscription is a bad address. A valid endpoint whose host is not in
``WEBPUSH_HOSTS`` is :class:`~worker.channels.Failed` instead, because the list of hosts may be out of date.
"""

import base64
import fnmatch
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from worker.channels import BadAddress, Failed
from worker.channels.push.webpush.config import WebPushConfig
from worker.mx.uris import check_uri
from worker.settings.urls import is_loopback

_HOST_NOT_ALLOWED = "uri_host_not_allowed"

#: Octets of the browser's public key, an uncompressed point on P-256, and of its secret (RFC 8291, 3.1 and 3.2).
_PUBLIC_KEY, _SECRET = 65, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscription:
    """A valid subscription."""

    endpoint: str
    p256dh: bytes
    auth: bytes

    def __repr__(self) -> str:  # secret: anybody who has it can encrypt messages for the browser
        return "Subscription(…)"

    @property
    def origin(self) -> str:
        """The audience of the VAPID token (RFC 8292, 2): ``https://fcm.googleapis.com``."""
        return str(URL(self.endpoint).origin())

    def info(self) -> dict[str, Any]:
        """The form that pywebpush takes."""
        return {"endpoint": self.endpoint, "keys": {"p256dh": _encoded(self.p256dh), "auth": _encoded(self.auth)}}


def parse(address: str, config: WebPushConfig) -> Subscription | BadAddress | Failed:
    """The subscription in ``address``, or why nothing can be sent to it."""
    try:
        info = json.loads(address)
        endpoint, keys = info["endpoint"], info["keys"]
        p256dh, auth = _decoded(keys["p256dh"]), _decoded(keys["auth"])
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), p256dh)
    except (ValueError, TypeError, KeyError, RecursionError):
        return BadAddress(code="subscription_malformed")
    if not isinstance(endpoint, str) or len(p256dh) != _PUBLIC_KEY or len(auth) != _SECRET:
        return BadAddress(code="subscription_malformed")
    return _refused(endpoint, config) or Subscription(endpoint=endpoint, p256dh=p256dh, auth=auth)


def _refused(endpoint: str, config: WebPushConfig) -> BadAddress | Failed | None:
    """Why nothing may be posted to this endpoint; ``None`` if it may."""
    if not endpoint.isascii():
        return BadAddress(code="endpoint_malformed")
    if config.allow_loopback and _is_on_this_machine(endpoint):
        return None
    broken_rule = check_uri(endpoint, host_is_allowed=lambda host: _is_known(host, config.hosts))
    if broken_rule == _HOST_NOT_ALLOWED:
        return Failed(code="endpoint_host_not_allowed")
    return BadAddress(code=broken_rule.replace("uri_", "endpoint_", 1)) if broken_rule else None


def _is_known(host: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(host, pattern.lower()) for pattern in patterns)


def _is_on_this_machine(endpoint: str) -> bool:
    if any(char in endpoint for char in "\\@") or not endpoint.isprintable():
        return False
    try:
        url = urlsplit(endpoint)
        return url.scheme in {"http", "https"} and is_loopback(url.hostname or "")
    except ValueError:
        return False


def _decoded(text: object) -> bytes:
    """Decodes base64url, with or without padding; raises ``ValueError`` (``binascii.Error`` is a subclass) for anything else."""
    if not isinstance(text, str):
        raise ValueError  # noqa: TRY004 - the subscription is invalid, not the caller's argument
    stripped = text.rstrip("=")
    return base64.b64decode(stripped + "=" * (-len(stripped) % 4), altchars=b"-_", validate=True)


def _encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
