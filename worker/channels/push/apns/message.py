"""From a :class:`~worker.channels.Message` to what is posted to APNs (Apple: *Sending notification requests to APNs*)."""

import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from worker.channels import BadAddress, Failed, Message
from worker.channels.push.apns.config import ApnsConfig
from worker.channels.push.payload import data_for, fitting, link_for, message_id
from worker.channels.push.text import word

#: Hexadecimal, 64 characters today; Apple warns against relying on the length.
_TOKEN = re.compile(r"(?:[0-9a-fA-F]{2}){32,100}")

#: Makes an ``apns-id`` of a message's key.
_IDS = uuid.UUID("9a4c3f0e-6d0b-5f3c-8a57-2b8f1f6f9d11")


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """A request to APNs, but for who we are."""

    path: str
    headers: dict[str, str]
    payload: bytes

    def __repr__(self) -> str:  # the path is the device's address
        return f"Push({len(self.payload)} bytes)"


def build(message: Message, config: ApnsConfig) -> Push | BadAddress | Failed:
    """The request, or why there can be none."""
    if not message.banks:
        return Failed(code="no_banks")
    if not _TOKEN.fullmatch(message.address):
        return BadAddress(code="address_syntax")
    text = word(message, app=config.app_name, default_locale=config.default_locale)
    same = message_id(message.key)

    def body(carried: str | None) -> dict[str, Any]:
        alert = {"title": text.title, "body": text.body}
        return {"aps": {"alert": alert, "sound": "default"}, **data_for(message, carried)}

    payload = fitting(body, link_for(message, include_link=config.include_link))
    if payload is None:
        return Failed(code="payload_too_large")
    return push_to(message.address, payload, key=message.key, collapse_id=same, config=config)


def push_to(address: str, payload: bytes, *, key: str, collapse_id: str, config: ApnsConfig) -> Push:
    """The request that brings ``payload`` to a device; the same key has the same ``apns-id``, by which Apple finds a message."""
    return Push(
        path=f"/3/device/{address}",
        headers={
            "apns-topic": config.topic,
            "apns-push-type": "alert",
            "apns-priority": "10",
            "apns-expiration": str(int(time.time()) + config.ttl),
            "apns-collapse-id": collapse_id,
            "apns-id": str(uuid.uuid5(_IDS, key)),
        },
        payload=payload,
    )
