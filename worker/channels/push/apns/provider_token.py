"""The provider token, our credentials for APNs: a JWT signed with ES256 (RFC 7515, RFC 7518; Apple: *Establishing a token-based
connection to APNs*).

Apple accepts a token for 60 minutes and refuses a new one within 20 minutes. So a token is used for 40 minutes.
"""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from worker.errors import SettingsError

#: Seconds for which a token is used, and the least seconds between two renewals after Apple called a token expired.
USED_FOR, MIN_RENEWAL_INTERVAL = 40 * 60, 20 * 60

_COORDINATE = 32  # octets of r and of s in an ES256 signature (RFC 7518, 3.4)


def load_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """The ``.p8`` key; raises :class:`~worker.errors.SettingsError` if the file holds no key for ES256."""
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise SettingsError(f"settings: APNS_KEY_FILE: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SettingsError("settings: APNS_KEY_FILE: expected the .p8 key file that Apple's developer site gives")
    return key


class ProviderToken:
    """Makes provider tokens and renews them."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, *, key_id: str, team_id: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        self._token = ""
        self._made_at = float("-inf")
        self._renewed_at = float("-inf")

    def current(self) -> str:
        """The token to use now."""
        # The lower bound: if the clock was set back, the token's age is negative and its true age unknown.
        if not 0 <= self._clock() - self._made_at < USED_FOR:
            self._make()
        return self._token

    def renewed(self, expired: str) -> str | None:
        """A new token in place of one that Apple called expired; ``None`` if the last renewal was less than 20 minutes ago.

        Such a young token cannot have expired, so our clock must be wrong.
        """
        if self._token == expired:  # else another message, sent at the same time, has renewed it
            if 0 <= self._clock() - self._renewed_at < MIN_RENEWAL_INTERVAL:
                return None
            self._make()
            self._renewed_at = self._made_at
        return self._token

    def _make(self) -> None:
        self._made_at = self._clock()
        head = {"alg": "ES256", "kid": self._key_id}
        claims = {"iss": self._team_id, "iat": int(self._made_at)}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
        self._token = f"{signed}.{_encoded(signature)}"


def _encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
