"""The VAPID key, our credentials for push services (RFC 8292).

py_vapid does not read the file, because it makes a new key if the file is missing, and no browser has subscribed with a new key.
"""

import base64
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from worker.errors import SettingsError, WorkerError
from worker.settings.values import parse_contact

try:
    from py_vapid import Vapid02  # type: ignore[import-untyped]
except ImportError:
    raise WorkerError("push to browsers needs: pip install 'reconnection-worker[push]'") from None

#: Octets of a private key on P-256 as a number.
_SCALAR = 32


def load_vapid(file: Path) -> Vapid02:
    """The key in ``file``; raises :class:`~worker.errors.SettingsError` if there is no usable key."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"settings: WEBPUSH_VAPID_KEY_FILE: cannot be read ({error.strerror})") from None
    try:
        key = _from_pem(text) if b"-----BEGIN" in text else _from_number(text.strip())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SettingsError("settings: WEBPUSH_VAPID_KEY_FILE: expected a private key on P-256, as PEM or in base64url")
    # no-strict: py_vapid's check of the contact refuses a URL with a path. ``check_contact`` has checked it already.
    return Vapid02(private_key=key, conf={"no-strict": True})


def check_contact(contact: str) -> str:
    """``contact``; raises :class:`~worker.errors.SettingsError` if push services would refuse it."""
    try:
        return parse_contact(contact)
    except ValueError as error:
        raise SettingsError(f"settings: WEBPUSH_CONTACT: {error}") from None


def _from_pem(text: bytes) -> object:
    return serialization.load_pem_private_key(text, password=None)


def _from_number(text: bytes) -> object:
    number = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    return ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP256R1()) if len(number) == _SCALAR else None
