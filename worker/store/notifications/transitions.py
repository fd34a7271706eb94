"""Writes notifications and their items: the moves of ``policy/states.py`` except those of leases (``claims.py``). :meth:`finish` makes
the move ``retry`` too.

All methods run in the caller's transaction, and write a batch in one statement.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Integer,
    Text,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.poison import MOST_DEATHS
from worker.policy.states import Mover, NotificationState, check
from worker.store.events.recording import record
from worker.store.sql.application import device_kind, plain_text
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import devices, notification_reconnections, notifications, reconnections, state_literal
from worker.store.totals import Totals
from worker.store.windows import live_window_of

n, r, link = notifications.c, reconnections.c, notification_reconnections.c
_N = NotificationState

_NOW = bindparam("now", type_=Moment())


class NotificationTransitions:
    """Makes the moves of notifications, in the transaction of the caller. Its SQL is built once for each database."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._totals = rows.part(Totals)
        self._queue = _queue(rows)
        self._add_items = _add_items(rows)
        self._finish = _finish(rows)
        self._leave_out = _leave_out(rows)
        self._relink = _relink(rows)
        self._note_device = _note_device(rows)
        self._note_bounce = _note_bounce(rows)
        self._news = _news_of_bounces(rows)
        self._cancel = _cancel(rows)
        ids = rows.table("given", {"id": BigInteger()}).c
        due_again: dict[Any, Any] = {n.spent: False, n.next_attempt_at: _NOW}
        self._give_back_attempts = (
            update(notifications)
            .where(n.id == ids.id, n.state == state_literal(_N.PENDING), n.spent)
            .values({n.attempts: n.attempts - 1, **due_again})
        )
        self._revive = (
            update(notifications)
            .where(n.id == ids.id, n.state.in_((state_literal(_N.FAILED), state_literal(_N.SUPPRESSED))))
            .values({n.state: _N.PENDING, n.epoch: n.epoch + 1, n.device_id: None, **due_again})
        )

    async def _execute(
        self, connection: AsyncConnection, statement: Any, given: Iterable[Mapping[str, Any]], **more: Any
    ) -> Any:
        listed = list(given)
        return await connection.execute(statement, {"given": self._rows.encode(listed), **more}) if listed else ()

    async def queue(
        self, connection: AsyncConnection, messages: Sequence[Mapping[str, Any]], now: datetime
    ) -> dict[str, int]:
        """``queue``: insert pending notifications; returns ids by user. A user who has a live one already gets none."""
        return {user: id_ for id_, user in await self._execute(connection, self._queue, messages, now=now)}

    async def add_items(self, connection: AsyncConnection, items: Sequence[Mapping[str, Any]]) -> None:
        """Add items to notifications."""
        await self._execute(connection, self._add_items, items)

    async def finish(
        self,
        connection: AsyncConnection,
        results: Sequence[Mapping[str, Any]],
        now: datetime,
        *,
        by: Mover = Mover.DELIVER,
    ) -> set[int]:
        """``finish`` and ``retry``: end leases with their results. Returns the ids that were still leased under their epoch."""
        for state in {row["state"] for row in results}:
            check("retry" if state is _N.PENDING else "finish", by, _N.SENDING, state)
        ordered = sorted(results, key=lambda row: row["id"])
        finished = {row.id for row in await self._execute(connection, self._finish, ordered, now=now)}
        for row in ordered:
            if row["id"] in finished:
                record(connection, "retry" if row["state"] is _N.PENDING else "finish", row["state"], (row["id"],))
        return finished

    async def leave_out(self, connection: AsyncConnection, items: Sequence[tuple[int, int]]) -> None:
        """Take items, as (notification, reconnection), out of their messages."""
        given = ({"id": reconnection, "notification_id": id_} for id_, reconnection in items)
        await self._execute(connection, self._leave_out, given)

    async def relink(self, connection: AsyncConnection, items: Sequence[tuple[int, int]]) -> None:
        """Point items, as (notification, reconnection), to the live windows of their reconnections that are open."""
        given = ({"id": reconnection, "notification_id": id_} for id_, reconnection in items)
        await self._execute(connection, self._relink, given)

    async def note_devices(self, connection: AsyncConnection, tried: Sequence[Mapping[str, Any]]) -> None:
        """Store the device (id, channel, address) that refused a message; the next device is tried."""
        await self._execute(connection, self._note_device, tried)

    async def note_bounces(
        self, connection: AsyncConnection, bounced: Iterable[tuple[int, str]], now: datetime
    ) -> None:
        """Write bounces (id, code) into notifications that were sent."""
        given = [{"id": id_, "outcome": code} for id_, code in sorted(set(bounced))]
        await self._totals.uncount_told(connection, await self._changed_by(connection, given))
        await self._execute(connection, self._note_bounce, given, now=now)

    async def _changed_by(self, connection: AsyncConnection, given: Sequence[Mapping[str, Any]]) -> list[int]:
        """The notifications that a bounce changes, locked."""
        changed = await self._execute(connection, self._news, given)
        return [row.id for row in changed]

    async def cancel_about(
        self, connection: AsyncConnection, closed: Collection[int], now: datetime, *, by: Mover = Mover.SWEEP
    ) -> None:
        """``cancel``: pending notifications that are only about these closed reconnections.

        Otherwise a message that waits for the morning would delay its user's next one.
        """
        check("cancel", by, _N.PENDING, _N.CANCELLED)
        await self._execute(connection, self._cancel, ({"id": id_} for id_ in closed), now=now)

    async def give_up(self, connection: AsyncConnection, now: datetime) -> Sequence[int]:
        """``give_up``: notifications whose workers died too often are not tried again; returns their ids."""
        check("give_up", Mover.SWEEP, _N.PENDING, _N.FAILED)
        statement = (
            update(notifications)
            .where(n.state == state_literal(_N.PENDING), n.lost_leases >= MOST_DEATHS)
            .values(state=_N.FAILED, outcome="poison", outcome_at=_NOW)
            .returning(n.id)
        )
        ids = list((await connection.execute(statement, {"now": now})).scalars())
        record(connection, "give_up", _N.FAILED, ids)
        return ids

    async def resend(
        self, connection: AsyncConnection, members: Collection[str] | None, now: datetime
    ) -> Sequence[int]:
        """``resend``: make `unknown` messages pending again, for users who got no message since; returns the ids."""
        check("resend", Mover.RETRY, _N.UNKNOWN, _N.PENDING)
        newer = notifications.alias("newer")
        about = select(link.notification_id).join(reconnections, r.id == link.reconnection_id)
        about_members = n.id.in_(about.where(r.member_guid.in_(members))) if members else true()
        overtaken = exists().where(newer.c.user_guid == n.user_guid, newer.c.id > n.id)
        conditions = (n.state == _N.UNKNOWN, about_members, ~overtaken)
        locked = select(n.id).where(*conditions).order_by(n.id).with_for_update()
        await self._totals.uncount_told(connection, list((await connection.execute(locked)).scalars()))
        statement = (
            update(notifications)
            .where(*conditions)
            .values(state=_N.PENDING, next_attempt_at=now, attempts=0, epoch=n.epoch + 1, outcome="requeued")
            .returning(n.id)
        )
        return list((await connection.execute(statement)).scalars())

    async def give_back_attempts(self, connection: AsyncConnection, ids: Collection[int], now: datetime) -> None:
        """A streak of refusals was our fault: its attempts on these pending notifications do not count."""
        await self._execute(connection, self._give_back_attempts, ({"id": id_} for id_ in ids), now=now)

    async def revive(self, connection: AsyncConnection, ids: Collection[int], now: datetime) -> None:
        """``revive``: a streak of refusals was our fault, so the notifications that it ended are pending again."""
        for state in (_N.FAILED, _N.SUPPRESSED):
            check("revive", Mover.DELIVER, state, _N.PENDING)
        await self._execute(connection, self._revive, ({"id": id_} for id_ in sorted(ids)), now=now)


async def forget_refusals(connection: AsyncConnection, channel: str) -> None:
    """Clear the recorded refusals of a channel, because it accepts our messages again."""
    await connection.execute(
        update(notifications).where(n.channel == channel, n.refusal.is_not(None)).values(refusal=None)
    )


def _queue(rows: Rows) -> Any:
    message = rows.table("given", {"user_guid": Text(), "channel": Text(), "step": Integer(), "message_key": Text()})
    return (
        rows.insert(notifications)
        .from_select(
            ["user_guid", "channel", "step", "message_key", "state", "created_at", "next_attempt_at"],
            select(message, literal(str(_N.PENDING)), _NOW, _NOW).where(true()),
        )
        .on_conflict_do_nothing()
        .returning(n.id, n.user_guid)
    )


def _add_items(rows: Rows) -> Any:
    ids = dict.fromkeys(("notification_id", "reconnection_id", "window_id"), BigInteger())
    item = rows.table("given", {**ids, "step": Integer(), "channel": Text()})
    return rows.insert(notification_reconnections).from_select([column.name for column in item.c], select(item))


def _finish(rows: Rows) -> Any:
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
    return (
        update(notifications)
        .where(n.id == result.id, n.epoch == result.epoch, n.state == state_literal(_N.SENDING))
        .values(
            state=result.state,
            outcome=result.outcome,
            outcome_at=_NOW,
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


def _leave_out(rows: Rows) -> Any:
    item = rows.table("given", {"id": BigInteger(), "notification_id": BigInteger()}).c
    return delete(notification_reconnections).where(
        rows.among(link.notification_id, select(item.notification_id)),
        exists().where(item.id == link.reconnection_id, item.notification_id == link.notification_id),
    )


def _relink(rows: Rows) -> Any:
    renewed = rows.table("given", {"id": BigInteger(), "notification_id": BigInteger()}).c
    window = live_window_of(link.reconnection_id)
    return (
        update(notification_reconnections)
        # A reconnection that ended meanwhile has no window; its item keeps the old one.
        .where(link.reconnection_id == renewed.id, link.notification_id == renewed.notification_id, window.is_not(None))
        .values(window_id=window)
    )


def _note_device(rows: Rows) -> Any:
    tried = rows.table("given", {"id": BigInteger(), "address": Text(), "channel": Text()}).c
    device = (
        select(func.max(devices.c.id))  # an application may have written one device twice, in two forms
        .where(
            devices.c.user_guid == n.user_guid,
            device_kind(devices.c.device_kind) == tried.channel,
            plain_text(devices.c.device_address) == tried.address,
        )
        .scalar_subquery()
    )
    return update(notifications).where(n.id == tried.id).values(device_id=device)


def _note_bounce(rows: Rows) -> Any:
    bounced = rows.table("given", {"id": BigInteger(), "outcome": Text()}).c
    return update(notifications).where(*_is_news(bounced)).values(outcome=bounced.outcome, outcome_at=_NOW)


def _news_of_bounces(rows: Rows) -> Any:
    bounced = rows.table("given", {"id": BigInteger(), "outcome": Text()})
    query = select(n.id).join(bounced, n.id == bounced.c.id).where(*_is_news(bounced.c))
    return query.order_by(n.id).with_for_update(of=notifications)


def _is_news(bounced: Any) -> tuple[Any, ...]:
    """The conditions under which a bounce changes a notification: it was sent, and has another outcome."""
    may_have_arrived = n.state.in_((state_literal(_N.SENT), state_literal(_N.UNKNOWN)))
    return n.id == bounced.id, may_have_arrived, or_(n.outcome.is_(None), n.outcome != bounced.outcome)


def _cancel(rows: Rows) -> Any:
    closed = rows.table("given", {"id": BigInteger()})
    behind = select(link.notification_id).join(closed, link.reconnection_id == closed.c.id)
    has_ready_item = (
        exists()
        .where(link.notification_id == n.id, link.reconnection_id == r.id, r.state == state_literal("ready"))
        .correlate(notifications)
    )
    return (
        update(notifications)
        .where(rows.among(n.id, behind), n.state == state_literal(_N.PENDING), ~has_ready_item)
        .values(state=_N.CANCELLED, outcome="superseded", outcome_at=_NOW)
    )
