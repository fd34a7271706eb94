"""A durable link. Its token has 128 bits: random ones for a message, derived ones for the API. The database keeps only a hash of it.

Example: the token ``q83vEjRWeJCrze8SNFZ4kA`` is part of ``https://reconnect.example.com/r/q83vEjRWeJCrze8SNFZ4kA``.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random

from worker.policy.selection import Reason
from worker.policy.states import OPEN, ReconnectionState

#: Two presses from one load of the page within this time are a double click.
DOUBLE_CLICK = timedelta(minutes=1)
#: MX is asked for at most this many windows for one link within this time.
MINTS, MINTS_WITHIN = 20, timedelta(hours=1)
#: If a click failed and no click on the same reconnection was served within this time, its user is owed one message once MX serves again.
OWED_AFTER = timedelta(hours=1)

_BYTES = 16
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")


class BankState(StrEnum):
    """What the page tells the customer about a bank."""

    #: It has to be reconnected.
    BROKEN = "broken"
    #: It works until a date, and can be renewed now.
    AHEAD = "ahead"
    #: It is reconnected.
    BACK = "back"
    #: Nothing can be done about it here: unsupported, gone, given up, cancelled, quarantined.
    ENDED = "ended"


def state_of_bank(state: str, *, reason: str, since: datetime, now: datetime) -> BankState:
    """What the page tells about a reconnection in this state. ``since``: when it broke; for a notice, when it will break."""
    if state in OPEN:
        return BankState.AHEAD if reason == Reason.EXPIRES_SOON and since > now else BankState.BROKEN
    return BankState.BACK if state == ReconnectionState.RECONNECTED else BankState.ENDED


def new_token(rng: Random) -> str:
    """A token of 22 letters; ``rng`` must be the system's (:class:`random.SystemRandom`)."""
    return urlsafe_b64encode(rng.randbytes(_BYTES)).decode().rstrip("=")


def token_of_hour(key: bytes, user_guid: str, moment: datetime) -> str:
    """The token of the link that the API gives for a user in the hour of ``moment``: every call within the hour gives the same one.

    It is derived with a secret ``key``. So it can be given again although only its hash is stored, and it cannot be guessed without
    the key.
    """
    hour = int(moment.timestamp()) // 3600
    digest = hmac.new(key, f"{user_guid} {hour}".encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(digest[:_BYTES]).decode().rstrip("=")


def hour_of(moment: datetime) -> datetime:
    """The beginning of the hour of ``moment``."""
    return moment.replace(minute=0, second=0, microsecond=0)


def is_nonce(text: str) -> bool:
    """Whether a text has the form of a nonce: 16 to 64 letters, digits, ``-`` and ``_``, such as :func:`new_token` gives."""
    return _NONCE.fullmatch(text) is not None


def hash_of(secret: str) -> str:
    """What is stored of a token or a nonce: SHA-256, hexadecimal. Both are random, so no salt is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def page_address(base_url: str, token: str) -> str:
    """The address of the customer's page."""
    return f"{base_url}/r/{token}"


def unsubscribe_address(base_url: str, token: str) -> str:
    """The address at which the link's user unsubscribes. It works as long as the link is stored."""
    return f"{base_url}/u/{token}"
