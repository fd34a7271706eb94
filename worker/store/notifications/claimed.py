"""A notification that a worker has leased, with what it is about."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from worker.policy.states import ReconnectionState


class NotificationItem(msgspec.Struct, frozen=True, kw_only=True):
    """One broken bank in a message."""

    reconnection_id: int
    #: Whether the reconnection still waits for this message. If not, the bank is left out.
    waiting: bool
    #: Failed attempts since the last message.
    attempts: int
    step: int
    base_step: int
    first_notified_at: datetime | None
    user_guid: str
    member_guid: str
    #: The GUID to ask MX for: the one that it answered with.
    asked_guid: str
    reason: str
    institution_name: str | None
    institution_code: str | None
    broken_since: datetime
    #: Whether it is a notice of a wave, so that it is spread.
    wave: bool = False
    #: Whether its institution is paused, by hand or for an outage.
    held: bool = False
    #: Whether the user asked for no messages about this member.
    muted: bool = False
    #: The encrypted URI of the window that fetch or deliver stored; ``None`` if it was superseded. Not needed with our own link.
    encrypted_uri: str | None
    fetched_at: datetime

    def __repr__(self) -> str:
        return f"NotificationItem({self.reconnection_id})"


class ClaimedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that this worker has leased."""

    id: int
    epoch: int
    user_guid: str
    channel: str
    message_key: str
    attempts: int
    step: int
    next_attempt_at: datetime
    #: When it was last refused, if it was neither sent nor deferred since.
    refused_at: datetime | None = None
    items: tuple[NotificationItem, ...]


def claimed_of(rows: Sequence[Any]) -> ClaimedNotification:
    first = rows[0]
    return ClaimedNotification(
        id=first.id,
        epoch=first.epoch,
        user_guid=first.user_guid,
        channel=first.channel,
        message_key=first.message_key,
        attempts=first.attempts,
        step=first.message_step,
        next_attempt_at=first.next_attempt_at,
        refused_at=first.outcome_at if first.refusal is not None else None,
        items=tuple(
            NotificationItem(
                reconnection_id=row.reconnection_id,
                waiting=row.state == ReconnectionState.READY,
                attempts=row.reconnection_attempts,
                step=row.step,
                base_step=row.base_step,
                wave=bool(row.wave),
                first_notified_at=row.first_notified_at,
                user_guid=row.user_guid,
                member_guid=row.member_guid,
                asked_guid=row.moved_to or row.member_guid,
                reason=row.reason,
                institution_name=row.institution_name,
                institution_code=row.institution_code,
                held=bool(row.held),
                muted=bool(row.muted),
                broken_since=row.broken_since,
                encrypted_uri=row.uri,
                fetched_at=row.fetched_at,
            )
            for row in rows
        ),
    )
