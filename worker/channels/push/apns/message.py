"""Builds the APNs request for a :class:`~worker.channels.Message` (Apple: *Sending notification requests to APNs*)."""

import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

from worker.channels import BadAddress, Failed, Message
from worker.channels.push.apns.config import ApnsConfig
from worker.channels.push.payload import data_for, encode_payload, link_for, message_id
from worker.channels.push.text import word

#: A device token: hexadecimal, 64 characters today. Apple may change the length.
_TOKEN = re.compile(r"(?:[0-9a-fA-F]{2}){32,100}")

#: The namespace (UUID version 5) for the ``apns-id`` of a message's key.
_IDS = uuid.UUID("9a4c3f0e-6d0b-5f3c-8a57-2b8f1f6f9d11")


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """A request to APNs, without the provider token."""

    path: str
    headers: dict[str, str]
    payload: bytes

    def __repr__(self) -> str:  # the path holds the device token
        return f"Push({len(self.payload)} bytes)"


def build(message: Message, config: ApnsConfig) -> Push | BadAddress | Failed:
    """The request, or why it cannot be built."""
    if not message.banks:
        return Failed(code="no_banks")
    if not _TOKEN.fullmatch(message.address):
        return BadAddress(code="address_syntax")
    text = word(message, app=config.app_name, default_locale=config.default_locale)

    def body(link: str | None) -> dict[str, Any]:
        alert = {"title": text.title, "body": text.body}
        return {"aps": {"alert": alert, "sound": "default"}, **data_for(message, link)}

    payload = encode_payload(body, link_for(message, include_link=config.include_link))
    if payload is None:
        return Failed(code="payload_too_large")
    return push_to(message.address, payload, key=message.key, collapse_id=message_id(message.key), config=config)


def push_to(address: str, payload: bytes, *, key: str, collapse_id: str, config: ApnsConfig) -> Push:
    """The request that sends ``payload`` to a device. The ``apns-id``, by which Apple traces a message, is derived from ``key``."""
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
