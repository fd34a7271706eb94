"""Refusals that are alike: finding a streak of them, stopping the channel for it, and giving back what it cost.

It happens in the transaction that writes the results. So the evidence of all processes adds up, and nothing that a streak cost is
left behind by a process that dies.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Integer, Text, bindparam, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.channel_choice import EMAIL
from worker.policy.states import GIVEN_BACK, LIVE, NotificationState, ReconnectionState
from worker.policy.streaks import MEMORY, OUT_OF, UNREACHABLE, Answer, alike
from worker.store.deliver_settling import DeliveryResult
from worker.store.pauses import delivery_scope, put
from worker.store.sql.application import plain_text
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

n, r, link = notifications.c, reconnections.c, notification_reconnections.c

_SERVER = {EMAIL: "the mail server", "fcm": "FCM", "apns": "APNs", "webpush": "the browsers' push service"}

#: A part of the reason where nobody answers; ``stages/deliver.py`` knows by it that asking is enough to see whether it is over.
NOT_REACHED = "cannot be reached"


class Streak(msgspec.Struct, frozen=True, kw_only=True):
    """Refusals that stopped a channel."""

    channel: str
    reason: str
    #: Messages of which the attempt or the step of the cadence was given back.
    given_back: int
    #: The channel was not stopped before.
    is_new: bool


class Refusals:
    """Its statements, made once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        since, channel = bindparam("since", type_=Moment()), bindparam("channel", type_=Text())
        recently = n.refusal.is_not(None) & (n.outcome_at > since)
        self._refused = (
            select(n.outcome_at, n.refusal, n.user_guid, users.c.email)
            .outerjoin(users, users.c.user_guid == n.user_guid)
            .where(n.channel == channel, recently)
            .order_by(n.outcome_at.desc())
            .limit(OUT_OF)
        )
        self._accepted = (
            select(n.sent_at, n.user_guid, users.c.email)
            .outerjoin(users, users.c.user_guid == n.user_guid)
            .where(n.channel == channel, n.state == written(NotificationState.SENT), n.sent_at > since)
            .order_by(n.sent_at.desc())
            .limit(OUT_OF)
        )
        self._cost = select(n.id, n.user_guid, n.state, n.spent, n.device_id).where(
            n.channel == channel,
            recently,
            n.refusal == bindparam("what"),
            n.state.in_([state for state in NotificationState if state in GIVEN_BACK])
            | ((n.state == NotificationState.PENDING) & n.spent),
        )
        ids = rows.table("given", {"id": BigInteger()}).c
        now = bindparam("now", type_=Moment())
        again: dict[Any, Any] = {n.spent: False, n.next_attempt_at: now}
        self._give_back_attempts = (
            update(notifications)
            .where(n.id == ids.id, n.state == written(NotificationState.PENDING), n.spent)
            .values({n.attempts: n.attempts - 1, **again})
        )
        self._revivable = _revivable(rows)
        self._revive = (
            update(notifications)
            .where(n.id == ids.id)
            .values({n.state: NotificationState.PENDING, n.epoch: n.epoch + 1, **again})
        )
        steps = rows.table("given", {"id": BigInteger(), "base": Integer()}).c
        self._unspeak = (
            update(reconnections)
            .where(r.id == steps.id)
            .values(
                state=ReconnectionState.READY, step=r.step - 1, base_step=r.base_step - steps.base, next_attempt_at=None
            )
        )
        who = rows.table("given", {"user_guid": Text()}).c
        self._trust_mailboxes = (
            update(users)
            .where(users.c.user_guid == who.user_guid, users.c.refused_email == plain_text(users.c.email))
            .values(refused_email=None, refused_why=None)
        )
        self._trust_devices = update(devices).where(devices.c.id == ids.id).values(disabled_at=None)

    async def assess(
        self,
        connection: AsyncConnection,
        results: Sequence[DeliveryResult],
        now: datetime,
        *,
        probe_after: dict[str, timedelta],
    ) -> list[Streak]:
        """Stop the channels on which these results make a streak; ``probe_after`` is how soon each kind of refusal is tried again."""
        new = {
            (d.notification.channel, d.refusal): d.doubt
            for d in results
            if d.refusal is not None and d.doubt is not None
        }
        streaks = []
        for channel in sorted({channel for channel, _ in new}):
            answers = await self._answers(connection, channel, now)
            for what, doubt in [(what, doubt) for (of, what), doubt in new.items() if of == channel]:
                if count := alike(what, doubt, answers, now=now):
                    reason = _in_words(channel, what, doubt, count)
                    given_back = await self._give_back(connection, channel, what, now)
                    after = probe_after.get(doubt, probe_after[""])
                    is_new = await put(
                        connection, self._rows, delivery_scope(channel), reason, now=now, probe_after=after
                    )
                    streaks.append(Streak(channel=channel, reason=reason, given_back=given_back, is_new=is_new))
        return streaks

    async def is_refused_alone(
        self, connection: AsyncConnection, results: Sequence[DeliveryResult], now: datetime
    ) -> bool:
        """Whether a channel accepts other messages, and these refusals make no streak beside them."""
        for result in results:
            if result.refusal is not None and result.doubt is not None:
                answers = await self._answers(connection, result.notification.channel, now)
                served = any(answer.refusal is None for answer in answers)
                if not served or alike(result.refusal, result.doubt, answers, now=now):
                    return False
        return True

    async def best_prospect(
        self, connection: AsyncConnection, channel: str, candidates: Sequence[tuple[int, str | None]], now: datetime
    ) -> int:
        """Of due messages (id, address) the first that goes to a place from which no refusal came, else the first."""
        answers = await self._answers(connection, channel, now)
        refusing = {answer.place for answer in answers if answer.refusal is not None}
        elsewhere = (id_ for id_, email in candidates if _place(channel, email) not in refusing)
        return next(elsewhere, candidates[0][0])

    async def _answers(self, connection: AsyncConnection, channel: str, now: datetime) -> list[Answer]:
        parameters = {"channel": channel, "since": now - MEMORY}
        refused = [
            Answer(at=at, refusal=what, user=user, place=_place(channel, email))
            for at, what, user, email in await connection.execute(self._refused, parameters)
        ]
        accepted = [
            Answer(at=at, refusal=None, user=user, place=_place(channel, email))
            for at, user, email in await connection.execute(self._accepted, parameters)
        ]
        return refused + accepted

    async def _give_back(self, connection: AsyncConnection, channel: str, what: str, now: datetime) -> int:
        """Undo what a streak cost: attempts, steps of the cadence, addresses that were suppressed."""
        parameters = {"channel": channel, "what": what, "since": now - MEMORY}
        cost = (await connection.execute(self._cost, parameters)).all()

        async def execute(statement: Any, given: Sequence[dict[str, Any]]) -> Any:
            return await connection.execute(statement, {"given": self._rows.encode(given), "now": now}) if given else ()

        await execute(
            self._give_back_attempts, [{"id": row.id} for row in cost if row.state == NotificationState.PENDING]
        )
        ended = {row.id: row for row in cost if row.state != NotificationState.PENDING}
        behind = list(await execute(self._revivable, [{"id": id_} for id_ in sorted(ended)]))
        # A step that was not spent had moved the beginning of the cadence along with it.
        await execute(
            self._unspeak, [{"id": reconnection, "base": int(not ended[id_].spent)} for id_, reconnection in behind]
        )
        await execute(self._revive, [{"id": id_} for id_ in sorted({id_ for id_, _ in behind})])
        suppressed = [row for row in cost if row.state == NotificationState.SUPPRESSED]
        if channel == EMAIL:
            await execute(self._trust_mailboxes, [{"user_guid": row.user_guid} for row in suppressed])
        await execute(self._trust_devices, [{"id": row.device_id} for row in suppressed if row.device_id is not None])
        return len(cost)


def _revivable(rows: Rows) -> Any:
    """Ended messages, and the reconnections that still stand where the message left them: nothing else was begun for the user."""
    ids = rows.table("given", {"id": BigInteger()})
    other, held = notifications.alias("other"), reconnections.alias("held")
    window = exists().where(windows.c.id == link.window_id, windows.c.superseded_at.is_(None))
    written_since = exists().where(
        other.c.user_guid == n.user_guid, (other.c.id > n.id) | (other.c.state.in_(LIVE) & (other.c.id != n.id))
    )
    being_fetched = exists().where(held.c.user_guid == n.user_guid, held.c.state == ReconnectionState.LEASED)
    return (
        select(n.id, r.id)
        .join(ids, n.id == ids.c.id)
        .join(notification_reconnections, link.notification_id == n.id)
        .join(reconnections, r.id == link.reconnection_id)
        .where(
            r.state == written(ReconnectionState.DUE), r.step == link.step + 1, window, ~written_since, ~being_fetched
        )
        .order_by(r.id)
        .with_for_update(of=reconnections)
    )


def _place(channel: str, email: str | None) -> str | None:
    return email.rpartition("@")[2].strip().lower() if channel == EMAIL and email else None


def _in_words(channel: str, what: str, doubt: str, count: int) -> str:
    server = _SERVER.get(channel, channel)
    if doubt == UNREACHABLE:
        return f"{server} {NOT_REACHED}, or takes nothing from us: {what}"
    return f"{server} refuses us: {count} messages alike, with {what}"
