"""The end of a delivery: the message's own state, and how the reconnections behind it go on, in one transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Integer, Text, bindparam, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.channel_choice import EMAIL
from worker.policy.states import NotificationState, ReconnectionState
from worker.store.members import Well, mark_well
from worker.store.sql.application import device_kind, plain_text
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import (
    devices,
    notification_reconnections,
    notifications,
    reconnections,
    users,
    windows,
    written,
)

n, r, w, link = notifications.c, reconnections.c, windows.c, notification_reconnections.c


class NotificationItem(msgspec.Struct, frozen=True, kw_only=True):
    """One broken bank in a message."""

    reconnection_id: int
    #: The reconnection still waits for this message; otherwise the bank is left out of it.
    waiting: bool
    #: Failed attempts since the last message.
    attempts: int
    step: int
    base_step: int
    first_notified_at: datetime | None
    user_guid: str
    member_guid: str
    #: The GUID under which MX answered, and is to be asked again.
    asked_guid: str
    reason: str
    institution_name: str | None
    institution_code: str | None
    broken_since: datetime
    #: Its institution is paused by hand, or held for an outage, since the message was planned.
    held: bool = False
    #: ``None`` once the window was superseded.
    locked_uri: str | None
    fetched_at: datetime

    def __repr__(self) -> str:
        return f"Passage({self.reconnection_id})"


class ClaimedNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that this worker holds."""

    id: int
    epoch: int
    user_guid: str
    channel: str
    message_key: str
    attempts: int
    step: int
    next_attempt_at: datetime
    items: tuple[NotificationItem, ...]


class NextStep(msgspec.Struct, frozen=True, kw_only=True):
    """How a reconnection goes on after a message about it came to its end."""

    reconnection_id: int
    state: ReconnectionState
    step: int
    base_step: int
    #: ``None``: no round follows.
    next_attempt_at: datetime | None
    #: Whether the customer may now know.
    told: bool = False
    next_check_at: datetime | None = None


class ClosedReconnection(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection that turned out to be over right before its message left."""

    reconnection_id: int
    member_guid: str
    state: ReconnectionState
    outcome: str
    #: When a sweep may open another for the member; ``None``: at once, should it break again.
    reopen_at: datetime | None = None
    #: Failed attempts, the one that ended it included.
    attempts: int = 0
    #: Reconnected: what MX said.
    well: Well | None = None


class Requeued(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection that is left out of its message, and due again by itself."""

    reconnection_id: int
    outcome: str
    attempts: int
    next_attempt_at: datetime
    step: int
    base_step: int


class WindowRenewal(msgspec.Struct, frozen=True, kw_only=True):
    """A window that was too old to be sent, and the one that took its place."""

    reconnection_id: int
    member_guid: str
    locked_uri: str

    def __repr__(self) -> str:
        return f"Renewal({self.reconnection_id})"


class DeliveryResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a notification."""

    notification: ClaimedNotification
    state: NotificationState
    outcome: str
    next_attempt_at: datetime | None = None
    attempts: int = 0
    next_steps: tuple[NextStep, ...] = ()
    closed: tuple[ClosedReconnection, ...] = ()
    requeued: tuple[Requeued, ...] = ()
    renewals: tuple[WindowRenewal, ...] = ()
    #: The address that was refused for good: of a mailbox, or of a device.
    refused_address: str | None = None
    #: The device that this message ended at; the next one is tried.
    tried_device: str | None = None
    #: How it was refused, where others may be refused alike, and who may be meant (:class:`worker.channels.Refusal`).
    refusal: str | None = None
    doubt: str | None = None
    #: It spent an attempt, or, at the end of the message, a step of the cadence.
    spent: bool = False

    @property
    def left_out(self) -> list[int]:
        """Reconnections that the message is not about after all."""
        return [ending.reconnection_id for ending in self.closed] + [again.reconnection_id for again in self.requeued]

    def __repr__(self) -> str:
        return f"Delivered({self.notification.id}, {self.state})"


class DeliverSettling:
    """The end of a delivery: the message's own state, and how the reconnections behind it go on."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        now = bindparam("now", type_=Moment())
        result = rows.table(
            "given",
            {
                "id": BigInteger(),
                "epoch": BigInteger(),
                "state": Text(),
                "outcome": Text(),
                "next_attempt_at": Moment(),
                "attempts": Integer(),
                "sent_at": Moment(),
                "refusal": Text(),
                "spent": Boolean(),
            },
        ).c
        self._finish = (
            update(notifications)
            .where(n.id == result.id, n.epoch == result.epoch, n.state == written("sending"))
            .values(
                state=result.state,
                outcome=result.outcome,
                outcome_at=now,
                next_attempt_at=result.next_attempt_at,
                attempts=result.attempts,
                sent_at=result.sent_at,
                refusal=result.refusal,
                spent=result.spent,
                lease_worker=None,
                lease_expires_at=None,
                lost_leases=0,
            )
            .returning(n.id)
        )
        following = rows.table(
            "given",
            {
                "id": BigInteger(),
                "state": Text(),
                "step": Integer(),
                "base_step": Integer(),
                "next_attempt_at": Moment(),
                "notified_at": Moment(),
                "next_check_at": Moment(),
            },
        ).c
        self._onward = (
            update(reconnections)
            .where(r.id == following.id, r.state == written("ready"))
            .values(
                state=following.state,
                step=following.step,
                base_step=following.base_step,
                next_attempt_at=following.next_attempt_at,
                next_check_at=following.next_check_at,
                notified_at=func.coalesce(following.notified_at, r.notified_at),
                first_notified_at=func.coalesce(r.first_notified_at, following.notified_at),
                attempts=0,
            )
        )
        over = rows.table(
            "given",
            {"id": BigInteger(), "state": Text(), "outcome": Text(), "reopen_at": Moment(), "attempts": Integer()},
        ).c
        self._end = (
            update(reconnections)
            .where(r.id == over.id, r.state == written("ready"))
            .values(
                state=over.state,
                outcome=over.outcome,
                outcome_at=now,
                closed_at=now,
                reopen_at=over.reopen_at,
                attempts=over.attempts,
            )
        )
        again = rows.table(
            "given",
            {
                "id": BigInteger(),
                "outcome": Text(),
                "attempts": Integer(),
                "next_attempt_at": Moment(),
                "step": Integer(),
                "base_step": Integer(),
            },
        ).c
        self._requeue = (
            update(reconnections)
            .where(r.id == again.id, r.state == written("ready"))
            .values(
                state=ReconnectionState.DUE,
                outcome=again.outcome,
                outcome_at=now,
                attempts=again.attempts,
                next_attempt_at=again.next_attempt_at,
                step=again.step,
                base_step=again.base_step,
            )
        )
        left = rows.table("given", {"id": BigInteger(), "notification_id": BigInteger()}).c
        self._leave_out = delete(notification_reconnections).where(
            rows.among(link.notification_id, select(left.notification_id)),
            exists().where(left.id == link.reconnection_id, left.notification_id == link.notification_id),
        )
        ids = rows.table("given", {"id": BigInteger()}).c
        self._forget = (
            update(windows)
            .where(w.reconnection_id == ids.id, w.superseded_at.is_(None))
            .values(superseded_at=now, uri=None)
        )
        self._next_epoch = update(reconnections).where(r.id == ids.id).values(epoch=r.epoch + 1)
        fresh = rows.table("given", {"id": BigInteger(), "member_guid": Text(), "uri": Text()})
        self._renew = rows.insert(windows).from_select(
            ["reconnection_id", "epoch", "member_guid", "uri", "fetched_at"],
            select(r.id, r.epoch, fresh.c.member_guid, fresh.c.uri, now).join(fresh, r.id == fresh.c.id),
        )
        live = (
            select(w.id).where(w.reconnection_id == link.reconnection_id, w.superseded_at.is_(None)).scalar_subquery()
        )
        carried = rows.table("given", {"id": BigInteger(), "notification_id": BigInteger()}).c
        self._relink = (
            update(notification_reconnections)
            .where(link.reconnection_id == carried.id, link.notification_id == carried.notification_id)
            .values(window_id=live)
        )
        refused = rows.table("given", {"user_guid": Text(), "address": Text(), "channel": Text()}).c
        self._refuse_mailbox = (
            update(users)
            .where(users.c.user_guid == refused.user_guid, plain_text(users.c.email) == refused.address)
            .values(refused_email=refused.address, refused_why="the mail server, when the mail was handed over")
        )
        at = rows.table("given", {"id": BigInteger(), "address": Text(), "channel": Text()}).c
        device = (
            select(func.max(devices.c.id))  # an application may have written one device twice, in two forms
            .where(
                devices.c.user_guid == n.user_guid,
                device_kind(devices.c.device_kind) == at.channel,
                plain_text(devices.c.device_address) == at.address,
            )
            .scalar_subquery()
        )
        self._note_device = update(notifications).where(n.id == at.id).values(device_id=device)
        self._refuse_device = (
            update(devices)
            .where(
                devices.c.user_guid == refused.user_guid,
                device_kind(devices.c.device_kind) == refused.channel,
                plain_text(devices.c.device_address) == refused.address,
            )
            .values(disabled_at=now)
        )

    async def run(self, connection: AsyncConnection, results: Sequence[DeliveryResult], now: datetime) -> int:
        """Write what is still ours to write."""

        async def execute(statement: Any, given: Sequence[dict[str, Any]]) -> Any:
            parameters = {"given": self._rows.encode(given), "now": now}
            return await connection.execute(statement, parameters) if given else ()

        spoken = (NotificationState.SENT, NotificationState.UNKNOWN)
        finished = {
            row.id
            for row in await execute(
                self._finish,
                [
                    {
                        "id": d.notification.id,
                        "epoch": d.notification.epoch,
                        "state": d.state,
                        "outcome": d.outcome,
                        "next_attempt_at": d.next_attempt_at,
                        "attempts": d.attempts,
                        "sent_at": now if d.state in spoken else None,
                        "refusal": d.refusal,
                        "spent": d.spent,
                    }
                    for d in sorted(results, key=lambda d: d.notification.id)
                ],
            )
        }
        ours = [d for d in results if d.notification.id in finished]
        await execute(
            self._onward,
            [
                {
                    "id": go.reconnection_id,
                    "state": go.state,
                    "step": go.step,
                    "base_step": go.base_step,
                    "next_attempt_at": go.next_attempt_at,
                    "notified_at": now if go.told else None,
                    "next_check_at": go.next_check_at,
                }
                for d in ours
                for go in d.next_steps
            ],
        )
        await self._end_reconnections(connection, execute, [ending for d in ours for ending in d.closed])
        await self._requeue_what_was_left_out(execute, ours)
        await self._renew_windows(execute, ours)
        refused = [
            {"user_guid": d.notification.user_guid, "address": d.refused_address, "channel": d.notification.channel}
            for d in ours
            if d.refused_address is not None
        ]
        tried = [
            {"id": d.notification.id, "address": d.tried_device, "channel": d.notification.channel}
            for d in ours
            if d.tried_device is not None
        ]
        await execute(self._note_device, tried)
        await execute(self._refuse_mailbox, [row for row in refused if row["channel"] == EMAIL])
        await execute(self._refuse_device, [row for row in refused if row["channel"] != EMAIL])
        return len(finished)

    async def _end_reconnections(
        self, connection: AsyncConnection, execute: Any, closed: Sequence[ClosedReconnection]
    ) -> None:
        await execute(
            self._end,
            [
                {
                    "id": e.reconnection_id,
                    "state": e.state,
                    "outcome": e.outcome,
                    "reopen_at": e.reopen_at,
                    "attempts": e.attempts,
                }
                for e in closed
            ],
        )
        await execute(self._forget, [{"id": e.reconnection_id} for e in closed])
        await mark_well(connection, self._rows, [e.well for e in closed if e.well is not None])

    async def _requeue_what_was_left_out(self, execute: Any, ours: Sequence[DeliveryResult]) -> None:
        requeued = [again for d in ours for again in d.requeued]
        await execute(
            self._requeue,
            [
                {
                    "id": again.reconnection_id,
                    "outcome": again.outcome,
                    "attempts": again.attempts,
                    "next_attempt_at": again.next_attempt_at,
                    "step": again.step,
                    "base_step": again.base_step,
                }
                for again in requeued
            ],
        )
        await execute(self._forget, [{"id": again.reconnection_id} for again in requeued])
        # A message that goes out is about those that it names, and a message that does not about those that it would have named.
        await execute(
            self._leave_out,
            [
                {"id": id_, "notification_id": d.notification.id}
                for d in ours
                if d.state is not NotificationState.CANCELLED
                for id_ in d.left_out
            ],
        )

    async def _renew_windows(self, execute: Any, ours: Sequence[DeliveryResult]) -> None:
        renewals = [(d.notification.id, renewal) for d in ours for renewal in d.renewals]
        ids = [{"id": renewal.reconnection_id} for _, renewal in renewals]
        await execute(self._forget, ids)
        await execute(self._next_epoch, ids)
        await execute(
            self._renew,
            [
                {"id": fresh.reconnection_id, "member_guid": fresh.member_guid, "uri": fresh.locked_uri}
                for _, fresh in renewals
            ],
        )
        await execute(self._relink, [{"id": fresh.reconnection_id, "notification_id": id_} for id_, fresh in renewals])
