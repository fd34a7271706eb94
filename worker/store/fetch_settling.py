"""The end of a fetch: windows, notifications and the reconnections' new states, all in one transaction or not at all."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Integer, Text, and_, bindparam, func, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.selection import MemberFacts
from worker.policy.states import ENDS, NotificationState, ReconnectionState
from worker.store.members import Well, mark_well
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import notification_reconnections, notifications, reconnections, windows, written

r = reconnections.c

#: How long what a person has broken waits while another message to them is under way.
TURN = timedelta(minutes=10)


class ClaimedReconnection(msgspec.Struct, frozen=True):
    """A reconnection that this worker holds."""

    id: int
    epoch: int
    member_guid: str
    user_guid: str
    #: The GUID to ask MX for: the member's own, or the one it moved to.
    asked_guid: str
    reason: str
    broken_since: datetime
    next_attempt_at: datetime
    attempts: int
    step: int
    base_step: int
    first_notified_at: datetime | None
    #: What the application says of the member now; ``None``: it has deleted it.
    facts: MemberFacts | None


class FetchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a claim. ``state`` is ready, due again, or an end."""

    claim: ClaimedReconnection
    state: ReconnectionState
    outcome: str
    next_attempt_at: datetime | None = None
    attempts: int = 0
    #: Ended: when a sweep may open another for the member. ``None``: at once, should it break again.
    reopen_at: datetime | None = None
    #: Ready: the encrypted URI, and the GUID that MX answered with.
    locked_uri: str | None = None
    window_guid: str | None = None
    #: Reconnected because MX says so: what it said. What the application's row said is not written back into it.
    well: Well | None = None


class NewNotification(msgspec.Struct, frozen=True, kw_only=True):
    """The message that follows from a person's fresh windows."""

    user_guid: str
    channel: str
    step: int
    message_key: str


#: One person's share of a batch: what became of the claims, and the message if there is one.
UserResult = tuple[Sequence[FetchResult], NewNotification | None]


class Settling:
    """Its statements, made once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        now = bindparam("now", type_=Moment())

        held = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})
        self._held = (
            select(r.id)
            .join(held, and_(r.id == held.c.id, r.epoch == held.c.epoch))
            .where(r.state == written("leased"))
            .order_by(r.id)
            .with_for_update(of=reconnections)
        )

        message = rows.table(
            "given", {"user_guid": Text(), "channel": Text(), "step": Integer(), "message_key": Text()}
        )
        self._insert_notifications = (
            rows.insert(notifications)
            .from_select(
                ["user_guid", "channel", "step", "message_key", "state", "created_at", "next_attempt_at"],
                select(message, literal(str(NotificationState.PENDING)), now, now).where(true()),
            )
            .on_conflict_do_nothing()
            .returning(notifications.c.id, notifications.c.user_guid)
        )

        over = rows.table("given", {"id": BigInteger()})
        self._supersede = (
            update(windows)
            .where(windows.c.reconnection_id == over.c.id, windows.c.superseded_at.is_(None))
            .values(superseded_at=now, uri=None)
        )

        fresh = rows.table("given", {"id": BigInteger(), "epoch": BigInteger(), "member_guid": Text(), "uri": Text()})
        self._store = (
            rows.insert(windows)
            .from_select(["reconnection_id", "epoch", "member_guid", "uri", "fetched_at"], select(fresh, now))
            .returning(windows.c.id, windows.c.reconnection_id)
        )

        link = rows.table(
            "given",
            {
                "notification_id": BigInteger(),
                "reconnection_id": BigInteger(),
                "window_id": BigInteger(),
                "step": Integer(),
                "channel": Text(),
            },
        )
        self._link = rows.insert(notification_reconnections).from_select(
            [column.name for column in link.c], select(link)
        )

        result = rows.table(
            "given",
            {
                "id": BigInteger(),
                "state": Text(),
                "outcome": Text(),
                "next_attempt_at": Moment(),
                "attempts": Integer(),
                "reopen_at": Moment(),
                "closed_at": Moment(),
                "moved_to": Text(),
            },
        ).c
        self._finish = (
            update(reconnections)
            .where(r.id == result.id)
            .values(
                state=result.state,
                outcome=result.outcome,
                outcome_at=now,
                next_attempt_at=result.next_attempt_at,
                attempts=result.attempts,
                reopen_at=result.reopen_at,
                closed_at=result.closed_at,
                moved_to=func.coalesce(result.moved_to, r.moved_to),
                lease_worker=None,
                lease_expires_at=None,
                lost_leases=0,
            )
        )

    async def run(self, connection: AsyncConnection, next_steps: Sequence[UserResult], now: datetime) -> int:
        """Write what is still ours to write; returns how many messages are to be delivered."""

        async def execute(statement: Any, given: Sequence[dict[str, Any]]) -> Any:
            parameters = {"given": self._rows.encode(given), "now": now}
            return await connection.execute(statement, parameters) if given else ()

        claims = [fetched.claim for results, _ in next_steps for fetched in results]
        held = {id_ for (id_,) in await execute(self._held, [{"id": c.id, "epoch": c.epoch} for c in claims])}
        ours = [([f for f in results if f.claim.id in held], message) for results, message in next_steps]

        speaking = {
            message.user_guid: message
            for results, message in ours
            if message is not None and any(f.state is ReconnectionState.READY for f in results)
        }
        sent_for = {
            user_guid: id_
            for id_, user_guid in await execute(
                self._insert_notifications, [_message(message) for message in speaking.values()]
            )
        }
        results = [
            f if f.state is not ReconnectionState.READY or f.claim.user_guid in sent_for else _wait_for_turn(f, now)
            for results, _ in ours
            for f in results
        ]

        ready = [f for f in results if f.state is ReconnectionState.READY]
        ended = [f for f in results if f.state in ENDS]
        # A reconnection that was never claimed before has no window yet.
        await execute(self._supersede, [{"id": f.claim.id} for f in (*ready, *ended) if f.claim.epoch > 1])
        stored = {
            reconnection_id: id_
            for id_, reconnection_id in await execute(
                self._store,
                [
                    {"id": f.claim.id, "epoch": f.claim.epoch, "member_guid": f.window_guid, "uri": f.locked_uri}
                    for f in ready
                ],
            )
        }
        await execute(
            self._link,
            [
                {
                    "notification_id": sent_for[f.claim.user_guid],
                    "reconnection_id": f.claim.id,
                    "window_id": stored[f.claim.id],
                    "step": f.claim.step,
                    "channel": speaking[f.claim.user_guid].channel,
                }
                for f in ready
            ],
        )
        await execute(self._finish, [_row(f, now) for f in results])
        await mark_well(connection, self._rows, [f.well for f in results if f.well is not None])
        return len(sent_for)


def _wait_for_turn(fetched: FetchResult, now: datetime) -> FetchResult:
    claim = fetched.claim
    return FetchResult(
        claim=claim,
        state=ReconnectionState.DUE,
        outcome="other_notification_live",
        next_attempt_at=now + TURN,
        attempts=claim.attempts,
    )


def _message(message: NewNotification) -> dict[str, Any]:
    return {
        "user_guid": message.user_guid,
        "channel": message.channel,
        "step": message.step,
        "message_key": message.message_key,
    }


def _row(fetched: FetchResult, now: datetime) -> dict[str, Any]:
    claim = fetched.claim
    return {
        "id": claim.id,
        "state": fetched.state,
        "outcome": fetched.outcome,
        "next_attempt_at": fetched.next_attempt_at,
        "attempts": fetched.attempts,
        "reopen_at": fetched.reopen_at,
        "closed_at": now if fetched.state in ENDS else None,
        "moved_to": fetched.window_guid if fetched.window_guid != claim.member_guid else None,
    }
