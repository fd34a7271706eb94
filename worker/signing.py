"""Signs what we post to the application: the three headers of Standard Webhooks.

    webhook-id: evt_…            the same at every attempt, so a receiver can drop duplicates
    webhook-timestamp: 17…       Unix seconds of this attempt; receivers refuse one older than five minutes
    webhook-signature: v1,… v1,… HMAC-SHA256 over ``id.timestamp.body``, once under each of the first two keys

Two signatures allow a change of keys without a pause: the new key is first and the old one second, until every receiver has the
new one. A receiver accepts a message if one signature is right.
"""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime

from pydantic import SecretStr
from standardwebhooks import Webhook

PREFIX = "whsec_"
#: How many bytes a key has, by the specification.
_SHORTEST, _LONGEST = 24, 64
#: How many keys sign at the same time.
SIGNING = 2


def is_key(text: str) -> bool:
    """Whether this is ``whsec_`` and 24 to 64 bytes in base64. The library ignores characters that are not base64, so they are checked here."""
    if not text.startswith(PREFIX):
        return False
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    return _SHORTEST <= len(key) <= _LONGEST


class Signer:
    """Signs with the first two of the secrets: ``EVENTS_SECRETS``, or the messenger's."""

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        self._keys = [Webhook(secret.get_secret_value()) for secret in secrets[:SIGNING]]

    def headers(self, message_id: str, body: str, now: datetime) -> dict[str, str]:
        """The headers of one attempt. ``body`` must be exactly the text that is sent, as UTF-8; ``now`` is UTC and aware."""
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(key.sign(message_id, now, body) for key in self._keys),
        }
