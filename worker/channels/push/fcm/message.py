"""From a :class:`~worker.channels.Message` to what is posted to FCM (``projects.messages``, HTTP v1)."""

import re
import time
from typing import Any

from worker.channels import BadAddress, Failed, Message
from worker.channels.push.fcm.config import FcmConfig
from worker.channels.push.payload import data_for, fitting, link_for, message_id
from worker.channels.push.text import PushText, word

#: A registration token is opaque; white space and what JSON would have to escape never stand in one.
_TOKEN = re.compile(r"[!#-\[\]-~]{1,4096}")


def build(message: Message, config: FcmConfig) -> bytes | BadAddress | Failed:
    """The request's body, or why there can be none."""
    if not message.banks:
        return Failed(code="no_banks")
    if not _TOKEN.fullmatch(message.address):
        return BadAddress(code="address_syntax")
    text = word(message, app=config.app_name, default_locale=config.default_locale)
    link = link_for(message, include_link=config.include_link)

    def body(carried: str | None) -> dict[str, Any]:
        return {"message": {"token": message.address, **content(message, text, carried, ttl=config.ttl)}}

    # The whole body is held to the limit, of which FCM counts only a part: what passes here passes there.
    return fitting(body, link) or Failed(code="payload_too_large")


def content(message: Message, text: PushText, link: str | None, *, ttl: int) -> dict[str, Any]:
    """What the device gets. A token may be an Android app's, an iOS app's or a browser's: each is told in its own words
    how long the message is worth delivering, and that a message of the same id replaces it.
    """
    same = message_id(message.key)
    return {
        "notification": {"title": text.title, "body": text.body},
        "data": data_for(message, link),
        "android": {"collapse_key": same, "ttl": f"{ttl}s", "notification": {"tag": same}},
        "apns": {"headers": {"apns-collapse-id": same, "apns-expiration": str(int(time.time()) + ttl)}},
        "webpush": {"headers": {"Topic": same, "TTL": str(ttl)}},
    }
