"""What a push message carries beside its words: an id, and a link where that was chosen.

A link may be MX's own URI, a secret that a push service would see; so there is none unless the configuration says so. Nor is
there one in a message about several banks, because a tap can open only one page, or where it would not fit: the app then
opens where connections are listed, as it does without.
"""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from worker.channels import Message

#: Octets that FCM and APNs take; one limit for both.
PAYLOAD_LIMIT = 4096

#: What fits all of them: a Web Push ``Topic`` (RFC 8030, 5.4: 32 characters of URL-safe base64) is the narrowest.
_FITTING_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


def message_id(key: str) -> str:
    """The message's key as push services take it: the same for every try, so that a doubled message replaces itself."""
    return key if _FITTING_ID.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()[:32]


def link_for(message: Message, *, include_link: bool) -> str | None:
    """The link that the payload carries, if any."""
    return message.banks[0].link if include_link and message.count == 1 else None


def data_for(message: Message, link: str | None) -> dict[str, str]:
    """What the app gets: ``message_key``, and ``link`` where there is one."""
    return {"message_key": message.key} | ({"link": link} if link else {})


def fitting(
    build: Callable[[str | None], dict[str, Any]], link: str | None, *, limit: int = PAYLOAD_LIMIT
) -> bytes | None:
    """The JSON of ``build(link)``, without the link where that is too long; ``None`` if nothing fits into ``limit`` octets."""
    for carried in dict.fromkeys((link, None)):
        payload = json.dumps(build(carried), ensure_ascii=False, separators=(",", ":")).encode()
        if len(payload) <= limit:
            return payload
    return None
