"""Refusals that are alike: finding a streak of them, pausing the channel for it, and undoing its effects.

This is done in the transaction that writes the results. So the results of all processes count together, and a process that dies cannot
leave effects of a streak behind.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, ScalarSelect, Text, and_, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.channel_choice import EMAIL, MESSENGER
from worker.policy.states import LIVE, NotificationState
from worker.policy.streaks import MEMORY, OUT_OF, UNREACHABLE, Answer, alike
from worker.store.addresses import RefusedAddresses
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.pauses import delivery_scope, put
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import notifications, state_literal, users
from worker.store.transactions.deliver_results import DeliveryResult

n = notifications.c

_SERVER = {
    EMAIL: "the mail server",
    "fcm": "FCM",
    "apns": "APNs",
    "webpush": "the browsers' push service",
    MESSENGER: "your messenger",
}

#: Part of the reason if the server is not reached. ``stages/deliver.py`` reads from it that a connection is enough to see whether it is over.
NOT_REACHED = "cannot be reached"


#: Refused messages that are counted at most.
_MANY = 100


class RefusalStreak(msgspec.Struct, frozen=True, kw_only=True):
    """Refusals that stopped a channel."""

    channel: str
    reason: str
    #: Messages whose attempt or step of the cadence was given back.
    given_back: int
    #: Whether the channel was not paused before.
    is_new: bool


class Acceptance(msgspec.Struct, frozen=True):
    """How a channel answered within the last hour."""

    #: When the channel last accepted a message.
    last_at: datetime | None
    #: Accepted messages, counted no further than ten times :data:`_MANY`.
    accepted: int
    #: Messages that wait because they were refused, counted to one more than :data:`_MANY`.
    refused: int


class Refusals:
    """Counts refusals, and undoes those of a streak, in the transaction of the caller. Its SQL is built once for each database."""

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
            .where(n.channel == channel, n.state == state_literal(NotificationState.SENT), n.sent_at > since)
            .order_by(n.sent_at.desc())
            .limit(OUT_OF)
        )
        sent = and_(n.channel == channel, n.state == state_literal(NotificationState.SENT), n.sent_at > since)
        waiting = and_(n.channel == channel, recently, n.state.in_([state_literal(state) for state in LIVE]))
        self._acceptance = select(
            select(func.max(n.sent_at)).where(sent).scalar_subquery(),
            _up_to(sent, 10 * _MANY),
            _up_to(waiting, _MANY + 1),
        )
        self._cost = select(n.id, n.user_guid, n.state, n.spent, n.device_id).where(
            n.channel == channel,
            recently,
            n.refusal == bindparam("what"),
            n.state.in_([NotificationState.FAILED, NotificationState.SUPPRESSED])
            | ((n.state == NotificationState.PENDING) & n.spent),
        )
        self._reconnections = rows.part(Transitions)
        self._notifications = rows.part(NotificationTransitions)
        self._addresses = rows.part(RefusedAddresses)

    async def assess(
        self,
        connection: AsyncConnection,
        results: Sequence[DeliveryResult],
        now: datetime,
        *,
        probe_after: dict[str, timedelta],
    ) -> list[RefusalStreak]:
        """Pause the channels on which these results make a streak; ``probe_after``: how soon each kind of refusal is tried again."""
        new = {
            (d.notification.channel, d.refusal): d.doubt
            for d in results
            if d.refusal is not None and d.doubt is not None
        }
        streaks = []
        for channel in sorted({channel for channel, _ in new}):
            answers = await self._answers(connection, channel, now)
            for refusal, doubt in [
                (refusal, doubt) for (refused_on, refusal), doubt in new.items() if refused_on == channel
            ]:
                if count := alike(refusal, doubt, answers, now=now):
                    reason = _in_words(channel, refusal, doubt, count)
                    given_back = await self._give_back(connection, channel, refusal, now)
                    after = probe_after.get(doubt, probe_after[""])
                    is_new = await put(
                        connection, self._rows, delivery_scope(channel), reason, now=now, probe_after=after
                    )
                    streaks.append(RefusalStreak(channel=channel, reason=reason, given_back=given_back, is_new=is_new))
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

    async def acceptance(
        self, connection: AsyncConnection, channels: Iterable[str], now: datetime
    ) -> dict[str, Acceptance]:
        """What each of these channels accepted within the last hour, and how many messages wait because they were refused."""
        by_channel = {}
        for channel in channels:
            row = await connection.execute(self._acceptance, {"channel": channel, "since": now - MEMORY})
            by_channel[channel] = Acceptance(*row.one())
        return by_channel

    async def best_prospect(
        self, connection: AsyncConnection, channel: str, candidates: Sequence[tuple[int, str | None]], now: datetime
    ) -> int:
        """The first of these due messages (id, address) whose recipient domain refused nothing; if there is none, the first."""
        answers = await self._answers(connection, channel, now)
        refusing = {answer.place for answer in answers if answer.refusal is not None}
        elsewhere = (id_ for id_, email in candidates if _place(channel, email) not in refusing)
        return next(elsewhere, candidates[0][0])

    async def _answers(self, connection: AsyncConnection, channel: str, now: datetime) -> list[Answer]:
        parameters = {"channel": channel, "since": now - MEMORY}
        refused = [
            Answer(at=at, refusal=refusal, user=user, place=_place(channel, email))
            for at, refusal, user, email in await connection.execute(self._refused, parameters)
        ]
        accepted = [
            Answer(at=at, refusal=None, user=user, place=_place(channel, email))
            for at, user, email in await connection.execute(self._accepted, parameters)
        ]
        return refused + accepted

    async def _give_back(self, connection: AsyncConnection, channel: str, refusal: str, now: datetime) -> int:
        """Undo the effects of a streak on attempts, steps of the cadence and suppressed addresses."""
        parameters = {"channel": channel, "what": refusal, "since": now - MEMORY}
        cost = (await connection.execute(self._cost, parameters)).all()

        pending = [row.id for row in cost if row.state == NotificationState.PENDING]
        await self._notifications.give_back_attempts(connection, pending, now)
        ended = {row.id: row for row in cost if row.state != NotificationState.PENDING}
        behind = await self._reconnections.revivable(connection, sorted(ended))
        # A message that used up no reminder had raised `base_step` as well.
        await self._reconnections.restore_step(
            connection, [{"id": reconnection, "base": int(not ended[id_].spent)} for id_, reconnection in behind]
        )
        await self._notifications.revive(connection, {id_ for id_, _ in behind}, now)
        suppressed = [row for row in cost if row.state == NotificationState.SUPPRESSED]
        await self._addresses.trust(
            connection,
            channel=channel,
            users=[row.user_guid for row in suppressed],
            devices=[row.device_id for row in suppressed if row.device_id is not None],
        )
        return len(cost)


def _place(channel: str, email: str | None) -> str | None:
    return email.rpartition("@")[2].strip().lower() if channel == EMAIL and email else None


def _in_words(channel: str, refusal: str, doubt: str, count: int) -> str:
    server = _SERVER.get(channel, channel)
    if doubt == UNREACHABLE:
        return f"{server} {NOT_REACHED}, or takes nothing from us: {refusal}"
    return f"{server} refuses us: {count} messages alike, with {refusal}"


def _up_to(where: ColumnElement[bool], at_most: int) -> ScalarSelect[int]:
    """How many there are, counted no further than ``at_most``."""
    return select(func.count()).select_from(select(n.id).where(where).limit(at_most).subquery()).scalar_subquery()
