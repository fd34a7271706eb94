"""The end of a delivery: the state of the message, and the next states of its reconnections, in one transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import Mover, NotificationState, ReconnectionState
from worker.store.addresses import RefusedAddresses
from worker.store.links import Links
from worker.store.members import Well
from worker.store.notifications.claimed import ClaimedNotification
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconnections.changes import Change, after_message, close, leave_out
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.rows import Rows
from worker.store.windows import NewWindow, Windows


class NextStep(msgspec.Struct, frozen=True, kw_only=True):
    """What follows for a reconnection after a message about it ended."""

    reconnection_id: int
    state: ReconnectionState
    step: int
    base_step: int
    #: When the next message is due; ``None``: none follows.
    next_attempt_at: datetime | None
    #: Whether the user was told, or may have been (`unknown`).
    told: bool = False
    next_check_at: datetime | None = None


class ClosedReconnection(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection that ended right before its message left."""

    reconnection_id: int
    member_guid: str
    state: ReconnectionState
    outcome: str
    #: When a sweep may open another for the member; ``None``: at once, if it breaks again.
    reopen_at: datetime | None = None
    #: Failed attempts, the one that ended it included.
    attempts: int = 0
    #: MX's answer, if it ended as reconnected.
    well: Well | None = None


class Requeued(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection that is left out of its message, and due again."""

    reconnection_id: int
    outcome: str
    attempts: int
    next_attempt_at: datetime
    step: int
    base_step: int


class DeliveryResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a notification."""

    notification: ClaimedNotification
    state: NotificationState
    outcome: str
    next_attempt_at: datetime | None = None
    attempts: int = 0
    next_steps: tuple[NextStep, ...] = ()
    closed: tuple[ClosedReconnection, ...] = ()
    requeued: tuple[Requeued, ...] = ()
    renewals: tuple[NewWindow, ...] = ()
    #: The address that was refused for good.
    refused_address: str | None = None
    #: The address of the device that refused this message; the next device is tried.
    tried_device: str | None = None
    #: The kind of the refusal, if it may be one of a streak, and whom it may mean (:class:`worker.channels.Refusal`).
    refusal: str | None = None
    doubt: str | None = None
    #: Whether it counted as an attempt or, at the end of the message, as a step of the cadence.
    spent: bool = False
    #: The hash of a link that certainly did not leave; the next try gets another link.
    withdrawn_link: str | None = None

    @property
    def left_out(self) -> list[tuple[int, int]]:
        """Items, as (notification, reconnection), to remove from the message.

        A sent message keeps the items that it named, and a cancelled one those that it would have named.
        """
        if self.state is NotificationState.CANCELLED:
            return []
        ids = [each.reconnection_id for each in self.closed] + [each.reconnection_id for each in self.requeued]
        return [(self.notification.id, id_) for id_ in ids]

    def __repr__(self) -> str:
        return f"DeliveryResult({self.notification.id}, {self.state})"


class DeliverSettling:
    """Settles deliveries; made once."""

    def __init__(self, rows: Rows) -> None:
        self._notifications = rows.part(NotificationTransitions)
        self._reconnections = rows.part(Transitions)
        self._windows = rows.part(Windows)
        self._addresses = rows.part(RefusedAddresses)
        self._links = rows.part(Links)

    async def run(
        self,
        connection: AsyncConnection,
        results: Sequence[DeliveryResult],
        now: datetime,
        *,
        by: Mover = Mover.DELIVER,
    ) -> int:
        """Write the results of messages that are still leased; returns how many."""
        finished = await self._notifications.finish(connection, [_row(result, now) for result in results], now, by=by)
        settled = [result for result in results if result.notification.id in finished]
        renewed = [(result.notification.id, window) for result in settled for window in result.renewals]
        ids = [window.reconnection_id for _, window in renewed]
        await self._reconnections.apply(
            connection,
            [change for result in settled for change in _changes(result, now)],
            by=by,
            now=now,
            left_out=[item for result in settled for item in result.left_out],
            replaced=ids,
        )
        await self._reconnections.next_epoch(connection, ids)
        await self._windows.renew(connection, [window for _, window in renewed], now)
        await self._notifications.relink(connection, [(id_, window.reconnection_id) for id_, window in renewed])
        await self._links.withdraw(connection, [d.withdrawn_link for d in settled if d.withdrawn_link is not None])
        await self._notifications.note_devices(
            connection,
            [
                {"id": d.notification.id, "address": d.tried_device, "channel": d.notification.channel}
                for d in settled
                if d.tried_device is not None
            ],
        )
        await self._addresses.refuse(
            connection,
            [
                {"user_guid": d.notification.user_guid, "address": d.refused_address, "channel": d.notification.channel}
                for d in settled
                if d.refused_address is not None
            ],
            now,
        )
        return len(finished)


def _row(result: DeliveryResult, now: datetime) -> dict[str, Any]:
    may_have_arrived = result.state in {NotificationState.SENT, NotificationState.UNKNOWN}
    return {
        "id": result.notification.id,
        "epoch": result.notification.epoch,
        "state": result.state,
        "outcome": result.outcome,
        "next_attempt_at": result.next_attempt_at,
        "attempts": result.attempts,
        "sent_at": now if may_have_arrived else None,
        "refusal": result.refusal,
        "spent": result.spent,
    }


def _changes(result: DeliveryResult, now: datetime) -> list[Change]:
    """The changes of the message's reconnections."""
    next_changes = [
        after_message(
            step.reconnection_id,
            step.state,
            now=now,
            told=step.told,
            step=step.step,
            base_step=step.base_step,
            next_attempt_at=step.next_attempt_at,
            next_check_at=step.next_check_at,
        )
        for step in result.next_steps
    ]
    closed = [
        close(
            each.reconnection_id,
            ReconnectionState.READY,
            each.state,
            now=now,
            well=each.well,
            outcome=each.outcome,
            attempts=each.attempts,
            reopen_at=each.reopen_at,
        )
        for each in result.closed
    ]
    requeued = [
        leave_out(
            each.reconnection_id,
            at=each.next_attempt_at,
            outcome=each.outcome,
            attempts=each.attempts,
            step=each.step,
            base_step=each.base_step,
        )
        for each in result.requeued
    ]
    return next_changes + closed + requeued
