"""A browser with a push subscription: its keys, and the decryption of messages for its service worker (RFC 8291)."""

import base64
import json
import os
from typing import Any

import http_ece  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


class Browser:
    """One subscription and its private keys."""

    def __init__(self, endpoint: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._secret = os.urandom(16)
        self.endpoint = endpoint

    def subscription(self, **overrides: Any) -> str:
        """The subscription as the result of ``JSON.stringify(subscription)``."""
        keys = {"p256dh": encoded(point_of(self._key)), "auth": encoded(self._secret)}
        return json.dumps({"endpoint": self.endpoint, "expirationTime": None, "keys": keys} | overrides)

    def read(self, body: bytes) -> dict[str, Any]:
        """Decrypt a message, as the browser does for the service worker."""
        shown: dict[str, Any] = json.loads(
            http_ece.decrypt(body, private_key=self._key, auth_secret=self._secret, version="aes128gcm")
        )
        return shown
