"""The end of a fetch: windows, notifications and the reconnections' new states, all in one transaction or not at all."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import ENDS, Mover, ReconnectionState
from worker.store.members import Well
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconnections.changes import Change, close, ready, reschedule
from worker.store.reconnections.claims import ClaimedReconnection, ReconnectionClaims
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.rows import Rows
from worker.store.windows import NewWindow, Windows

#: How long a user's broken members wait while another message to this user is under way.
OTHER_MESSAGE_WAIT = timedelta(minutes=10)


class FetchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a claim. ``state`` is ready, due, or an end."""

    claim: ClaimedReconnection
    state: ReconnectionState
    outcome: str
    next_attempt_at: datetime | None = None
    attempts: int = 0
    #: If it ended: when a sweep may open another for the member. ``None``: at once, if it breaks again.
    reopen_at: datetime | None = None
    #: If it is ready: the encrypted URI, and the GUID that MX answered with.
    encrypted_uri: str | None = None
    window_guid: str | None = None
    #: MX's answer, if it ended as reconnected by that answer. ``None`` if the application's row ended it: then ``members`` is not written.
    well: Well | None = None


class NewNotification(msgspec.Struct, frozen=True, kw_only=True):
    """The message about a user's fresh windows."""

    user_guid: str
    channel: str
    step: int
    message_key: str


class UserResult(NamedTuple):
    """One user's part of a batch: the results of the claims, and the message if there is one."""

    results: Sequence[FetchResult]
    message: NewNotification | None = None


class FetchSettling:
    """Settles fetches; made once."""

    def __init__(self, rows: Rows) -> None:
        self._claims = rows.part(ReconnectionClaims)
        self._reconnections = rows.part(Transitions)
        self._notifications = rows.part(NotificationTransitions)
        self._windows = rows.part(Windows)

    async def run(self, connection: AsyncConnection, user_results: Sequence[UserResult], now: datetime) -> int:
        """Write the results of claims that are still leased; returns how many messages are to be delivered."""
        leased_ids = await self._claims.still_leased(
            connection, [fetched.claim for results, _ in user_results for fetched in results]
        )
        leased_results = [
            ([f for f in results if f.claim.id in leased_ids], message) for results, message in user_results
        ]
        speaking = {
            message.user_guid: message
            for results, message in leased_results
            if message is not None and any(f.state is ReconnectionState.READY for f in results)
        }
        queued = await self._notifications.queue(
            connection, [msgspec.structs.asdict(message) for message in speaking.values()], now
        )
        results = [
            f if f.state is not ReconnectionState.READY or f.claim.user_guid in queued else _wait_for_turn(f, now)
            for results, _ in leased_results
            for f in results
        ]
        await self._reconnections.apply(connection, [_change(f, now) for f in results], by=Mover.FETCH, now=now)
        fetched = [f for f in results if f.state is ReconnectionState.READY]
        stored = await self._windows.store(
            connection, [_window(f) for f in fetched], {f.claim.id: f.claim.epoch for f in fetched}, now
        )
        await self._notifications.add_items(
            connection,
            [
                {
                    "notification_id": queued[f.claim.user_guid],
                    "reconnection_id": f.claim.id,
                    "window_id": stored[f.claim.id],
                    "step": f.claim.step,
                    "channel": speaking[f.claim.user_guid].channel,
                }
                for f in fetched
            ],
        )
        return len(queued)


def _wait_for_turn(fetched: FetchResult, now: datetime) -> FetchResult:
    claim = fetched.claim
    return FetchResult(
        claim=claim,
        state=ReconnectionState.DUE,
        outcome="other_notification_live",
        next_attempt_at=now + OTHER_MESSAGE_WAIT,
        attempts=claim.attempts,
    )


def _window(fetched: FetchResult) -> NewWindow:
    assert fetched.window_guid is not None and fetched.encrypted_uri is not None, "ready with a window"  # noqa: S101, PT018
    return NewWindow(
        reconnection_id=fetched.claim.id, member_guid=fetched.window_guid, encrypted_uri=fetched.encrypted_uri
    )


def _change(fetched: FetchResult, now: datetime) -> Change:
    claim, outcome, attempts = fetched.claim, fetched.outcome, fetched.attempts
    had_window = claim.epoch > 1  # a reconnection that was never claimed before has none
    if fetched.state is ReconnectionState.READY:
        moved_to = fetched.window_guid if fetched.window_guid != claim.member_guid else None
        return ready(claim.id, outcome=outcome, attempts=attempts, moved_to=moved_to, had_window=had_window)
    if fetched.state in ENDS:
        return close(
            claim.id,
            ReconnectionState.LEASED,
            fetched.state,
            now=now,
            outcome=outcome,
            attempts=attempts,
            reopen_at=fetched.reopen_at,
            well=fetched.well,
            had_window=had_window,
        )
    return reschedule(claim.id, outcome=outcome, attempts=attempts, at=fetched.next_attempt_at)
