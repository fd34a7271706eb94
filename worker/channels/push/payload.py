"""The data of a push message besides its text: an id, and perhaps a link.

With ``PUBLIC_BASE_URL`` the link is our own. It leads to all banks of the message and reveals no secret of MX.

Without that setting it would be MX's own URI, a secret that the push service would see. So a message has a link only if both hold:

- ``PUSH_LINK`` is on.
- The message is about one bank, because a tap can open only one page.

In both cases the payload with the link must be within the size limit. Without a link the app opens its list of connections.
"""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from worker.channels import Message

#: The most octets that FCM and APNs accept; the limit is the same for both.
PAYLOAD_LIMIT = 4096

#: An id that all three services accept. The strictest rule is that of the Web Push ``Topic`` (RFC 8030, 5.4).
_VALID_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


def message_id(key: str) -> str:
    """The message's id for push services. Every attempt has the same one, so a duplicate replaces the first on the device."""
    return key if _VALID_ID.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()[:32]


def link_for(message: Message, *, include_link: bool) -> str | None:
    """The link for the payload; ``None`` if the payload must not have one."""
    if message.link is not None:
        return message.link.page
    return message.banks[0].link if include_link and message.count == 1 else None


def data_for(message: Message, link: str | None) -> dict[str, str]:
    """What the app gets: ``message_key``, and ``link`` if there is one."""
    return {"message_key": message.key} | ({"link": link} if link else {})


def encode_payload(
    build: Callable[[str | None], dict[str, Any]], link: str | None, *, limit: int = PAYLOAD_LIMIT
) -> bytes | None:
    """The JSON of ``build(link)``, or of ``build(None)`` if that is longer than ``limit`` octets; ``None`` if both are longer."""
    for candidate in dict.fromkeys((link, None)):
        payload = json.dumps(build(candidate), ensure_ascii=False, separators=(",", ":")).encode()
        if len(payload) <= limit:
            return payload
    return None
