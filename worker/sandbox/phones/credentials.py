"""The sender's keys in the files that Google's console, Apple's developer site and a VAPID tool give; new ones each time."""

import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from worker.sandbox.phones.google import EMAIL, PROJECT
from worker.sandbox.phones.google import KEY_ID as GOOGLE_KEY_ID


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The key files, and the private keys in them."""

    service_account_file: Path
    apns_key_file: Path
    vapid_key_file: Path
    service_account: rsa.RSAPrivateKey
    apns: ec.EllipticCurvePrivateKey
    vapid: ec.EllipticCurvePrivateKey


def make_credentials(folder: Path) -> Credentials:
    """Write three key files; raises ``OSError`` if they cannot be written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Credentials(
        service_account_file=folder / "service-account.json",
        apns_key_file=folder / "AuthKey.p8",
        vapid_key_file=folder / "vapid.pem",
        service_account=rsa.generate_private_key(public_exponent=65537, key_size=2048),
        apns=ec.generate_private_key(ec.SECP256R1()),
        vapid=ec.generate_private_key(ec.SECP256R1()),
    )
    account = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": GOOGLE_KEY_ID,
        "private_key": _pem(made.service_account).decode(),
        "client_email": EMAIL,
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    made.service_account_file.write_text(json.dumps(account), encoding="utf-8")
    made.apns_key_file.write_bytes(_pem(made.apns))
    made.vapid_key_file.write_bytes(_pem(made.vapid))
    return made


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
