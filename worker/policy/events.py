"""What the application is told: the type of each event, and the data that it carries. `docs/events.md` explains each.

An event is thin: it names what happened and the GUIDs that it happened to. It holds no URI, no address and no key. The JSON Schema that is
published (`docs/events.schema.json`) is made from these classes.

:data:`worker.policy.states.TELLS` gives the event of each move of a reconnection or a notification.
"""

from enum import StrEnum
from typing import Annotated, Any

import msgspec


class EventType(StrEnum):
    """What happened."""

    #: A member broke, or its token expires soon (`reason` tells which), and its reconnection was opened, or opened again.
    OPENED = "reconnection.opened"
    #: The member's user was told, or may have been.
    NOTIFIED = "reconnection.notified"
    #: The member's user pressed the button of our page. A mail scanner may press it too.
    CLICKED = "reconnection.clicked"
    #: The member is well again.
    RECONNECTED = "reconnection.reconnected"
    #: MX answered under another GUID: `moved_to`. `member_guid` is the one that the application knows.
    MOVED = "reconnection.moved"
    #: MX says that the member cannot use OAuth.
    UNSUPPORTED = "reconnection.unsupported"
    #: MX no longer knows the member, or the application deleted it.
    GONE = "reconnection.gone"
    #: An operator must look at it.
    QUARANTINED = "reconnection.quarantined"
    #: Every attempt failed, or no reminder got a response.
    EXHAUSTED = "reconnection.exhausted"
    #: The application's own data no longer call the member broken.
    CANCELLED = "reconnection.cancelled"
    #: A mail server, a push service or a messenger took a message.
    SENT = "notification.sent"
    #: The message was refused for good.
    FAILED = "notification.failed"
    #: The message's address does not exist, or the user wants no messages.
    SUPPRESSED = "notification.suppressed"
    #: The answer was lost: the message may have arrived.
    UNKNOWN = "notification.unknown"
    #: A user wants no more messages.
    OPTED_OUT = "user.opted_out"
    #: Members of an institution break in a burst; its messages are held.
    OUTAGE_SUSPECTED = "outage.suspected"
    #: The burst is over.
    OUTAGE_OVER = "outage.over"


class ReconnectionData(msgspec.Struct, frozen=True, kw_only=True):
    """Of `reconnection.*`. Its events arrive in order."""

    reconnection_id: int
    user_guid: str
    #: As the application's own tables have it.
    member_guid: str
    #: The GUID that MX uses for the member now, if it moved.
    moved_to: str | None
    institution_code: str | None
    #: Why it was opened: `connection_status`, `error_code`, `token_revoked`, `token_expired` or `expires_soon`.
    reason: str
    #: A short word for how the last attempt ended.
    outcome: str | None


class NotificationData(msgspec.Struct, frozen=True, kw_only=True):
    """Of `notification.*`."""

    notification_id: int
    user_guid: str
    channel: str
    #: The place in the cadence: 0 is the first message, 1 the first reminder.
    step: int
    #: A short word for how it ended.
    outcome: str | None
    #: The reconnections that the message was about, and their members.
    reconnection_ids: list[int]
    member_guids: list[str]


class UserData(msgspec.Struct, frozen=True, kw_only=True):
    """Of `user.*`."""

    user_guid: str


class OutageData(msgspec.Struct, frozen=True, kw_only=True):
    """Of `outage.*`."""

    institution_code: str


Data = ReconnectionData | NotificationData | UserData | OutageData
DATA: dict[str, type[Data]] = {
    "reconnection": ReconnectionData,
    "notification": NotificationData,
    "user": UserData,
    "outage": OutageData,
}


def data_class(type_: EventType) -> type[Data]:
    """The class of an event's ``data``."""
    return DATA[type_.partition(".")[0]]


def body(type_: str, event_id: str, sequence: int, timestamp: str, data: str) -> str:
    """What is posted: the same text at every attempt. ``data`` is JSON already."""
    fields = {
        "type": type_,
        "id": event_id,
        "sequence": sequence,
        "timestamp": timestamp,
        "data": msgspec.Raw(data.encode()),
    }
    return msgspec.json.encode(fields).decode()


_Sequence = Annotated[int, msgspec.Meta(description="Grows with every event. Events of one user arrive in its order.")]
_Timestamp = Annotated[
    str, msgspec.Meta(description="When it happened, RFC 3339 in UTC.", extra_json_schema={"format": "date-time"})
]
_Id = Annotated[
    str, msgspec.Meta(description="The same at every attempt: drop what you have seen.", pattern="^evt_[0-9a-f]{32}$")
]


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what is posted."""
    _, data = msgspec.json.schema_components(tuple(DATA.values()), ref_template="#/$defs/{name}")
    (id_, sequence, timestamp), _ = msgspec.json.schema_components((_Id, _Sequence, _Timestamp))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of the reconnection worker",
        "type": "object",
        "required": ["type", "id", "sequence", "timestamp", "data"],
        "properties": {"id": id_, "sequence": sequence, "timestamp": timestamp},
        "oneOf": [
            {
                "properties": {
                    "type": {"enum": [str(type_) for type_ in EventType if data_class(type_) is data_type]},
                    "data": {"$ref": f"#/$defs/{data_type.__name__}"},
                }
            }
            for data_type in DATA.values()
        ],
        "$defs": data,
    }
