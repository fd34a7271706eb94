"""Builds the FCM request for a :class:`~worker.channels.Message` (``projects.messages``, HTTP v1)."""

import re
import time
from typing import Any

from worker.channels import BadAddress, Failed, Message
from worker.channels.push.fcm.config import FcmConfig
from worker.channels.push.payload import data_for, encode_payload, link_for, message_id
from worker.channels.push.text import PushText, word

#: A registration token is opaque, but contains no white space and no character that JSON escapes.
_TOKEN = re.compile(r"[!#-\[\]-~]{1,4096}")


def build(message: Message, config: FcmConfig) -> bytes | BadAddress | Failed:
    """The request's body, or why it cannot be built."""
    if not message.banks:
        return Failed(code="no_banks")
    if not _TOKEN.fullmatch(message.address):
        return BadAddress(code="address_syntax")
    text = word(message, app=config.app_name, default_locale=config.default_locale)

    def body(link: str | None) -> dict[str, Any]:
        return {"message": {"token": message.address, **content(message, text, link, ttl=config.ttl)}}

    # FCM counts only a part of the body towards its limit. Here the whole body must fit, so FCM never refuses one as too large.
    payload = encode_payload(body, link_for(message, include_link=config.include_link))
    return payload or Failed(code="payload_too_large")


def content(message: Message, text: PushText, link: str | None, *, ttl: int) -> dict[str, Any]:
    """What the device gets. A token may belong to an Android app, an iOS app or a browser. Each has its own fields for
    the time to live, and for the id by which a second message replaces the first.
    """
    collapse_id = message_id(message.key)
    return {
        "notification": {"title": text.title, "body": text.body},
        "data": data_for(message, link),
        "android": {"collapse_key": collapse_id, "ttl": f"{ttl}s", "notification": {"tag": collapse_id}},
        "apns": {"headers": {"apns-collapse-id": collapse_id, "apns-expiration": str(int(time.time()) + ttl)}},
        "webpush": {"headers": {"Topic": collapse_id, "TTL": str(ttl)}},
    }
