"""The moves of reconnections between states, by their names in ``policy/states.py``.

A stage settles a list of changes (:mod:`~worker.store.reconnections.changes`), which :meth:`Transitions.apply` writes in one UPDATE. The
other methods are single set-based statements. All run in the caller's transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.events import EventType
from worker.policy.states import ENDS, LIVE, Mover, ReconnectionState, check
from worker.store.changes import Changes
from worker.store.events.recording import are_on, record, record_about
from worker.store.reconnections.changes import Change, applying
from worker.store.reconnections.checks import only_for_click
from worker.store.reconnections.closing import Closing
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import notification_reconnections, notifications, reconnections, state_literal, windows
from worker.store.totals import Totals

r, n, link = reconnections.c, notifications.c, notification_reconnections.c
_R = ReconnectionState
_NOW = bindparam("now", type_=Moment())

#: The outcome of a reconnection that waits for its place on the ramp after an outage.
OUTAGE_OVER = "outage_over"


class Transitions:
    """Makes the moves of reconnections, in the transaction of the caller. Its SQL is built once for each database."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._closing = rows.part(Closing)
        self._totals = rows.part(Totals)
        self._changed_members = rows.part(Changes)
        self._apply = applying(rows)
        self._revivable = _revivable(rows)
        steps = rows.table("given", {"id": BigInteger(), "base": Integer()}).c
        self._restore_step = (
            update(reconnections)
            .where(r.id == steps.id, r.state == state_literal(_R.DUE))
            .values(state=_R.READY, step=r.step - 1, base_step=r.base_step - steps.base, next_attempt_at=None)
        )
        self._give_back = _give_back(rows)
        to = rows.table("given", {"id": BigInteger(), "moved_to": Text()}).c
        self._new_guids = select(r.id).where(r.id == to.id, func.coalesce(r.moved_to, "") != to.moved_to).order_by(r.id)
        attempts = rows.table("given", {"id": BigInteger(), "outcome": Text(), "attempts": Integer()}).c
        self._exhausted = (
            select(r.id).where(r.id == attempts.id, r.state == state_literal(_R.EXHAUSTED)).with_for_update()
        )
        ids = rows.table("given", {"id": BigInteger()}).c
        self._next_epoch = update(reconnections).where(r.id == ids.id).values(epoch=r.epoch + 1)
        self._know_again = (
            update(reconnections)
            .where(r.id == ids.id, blocks_as_gone())
            .values(reopen_at=None)
            .returning(r.member_guid)
        )
        places = rows.table("given", {"id": BigInteger(), "at": Moment()}).c
        self._spread = (
            update(reconnections)
            .where(r.id == places.id, r.state == state_literal(_R.DUE))
            .values(next_attempt_at=places["at"], outcome=OUTAGE_OVER, outcome_at=_NOW)
        )

    async def apply(
        self,
        connection: AsyncConnection,
        changes: Sequence[Change],
        *,
        by: Mover,
        now: datetime,
        left_out: Sequence[tuple[int, int]] = (),
        replaced: Collection[int] = (),
    ) -> set[int]:
        """Write these changes in one statement, with their side effects; returns the ids that were still in the state where the change begins.

        ``left_out``: items (notification, reconnection) to remove from messages, because they closed or were requeued.
        ``replaced``: reconnections that stay as they are, and whose window is replaced by a fresh one.
        """
        for name, before, after in {(change.name, change.before, change.after) for change in changes if change.name}:
            check(name, by, before, after)
        changed_ids: set[int] = set()
        if changes:
            with_another_guid = await self._with_another_guid(connection, changes)
            given = self._rows.encode(
                {"id": change.id, "before": change.before, "state": change.after, **change.columns}
                for change in changes
            )
            changed_ids = set((await connection.execute(self._apply, {"given": given, "now": now})).scalars())
            record_about(connection, EventType.MOVED, [id_ for id_ in with_another_guid if id_ in changed_ids])
            for change in changes if are_on(connection) else ():
                if change.name and change.id in changed_ids:
                    record(connection, change.name, change.after, (change.id,))
        await self._closing.finish(
            connection,
            # A reconnection that closes may have windows of clicks, even if fetch stored none.
            wiped=[
                *(
                    change.id
                    for change in changes
                    if (change.wipes or change.after in ENDS) and change.id in changed_ids
                ),
                *replaced,
            ],
            closed=[change.id for change in changes if change.after in ENDS],
            left_out=left_out,
            well=[change.well for change in changes if change.well is not None and change.id in changed_ids],
            now=now,
        )
        # This must follow finish(), which marks their members well.
        closed_ids = [change.id for change in changes if change.after in ENDS and change.id in changed_ids]
        await self._changed_members.list_closed(connection, closed_ids)
        return changed_ids

    async def _with_another_guid(self, connection: AsyncConnection, changes: Sequence[Change]) -> list[int]:
        """The reconnections for which MX answered with another GUID than before; empty if no events are written."""
        if not are_on(connection):
            return []
        given = [
            {"id": change.id, "moved_to": to}
            for change in changes
            if (to := change.columns.get("moved_to")) is not None
        ]
        if not given:
            return []
        return list((await connection.execute(self._new_guids, {"given": self._rows.encode(given)})).scalars())

    async def next_epoch(self, connection: AsyncConnection, ids: Collection[int]) -> None:
        """Not a move: raise the epoch of these for a fresh window; results under the last epoch are discarded."""
        if ids:
            await connection.execute(self._next_epoch, {"given": self._rows.encode({"id": id_} for id_ in ids)})

    async def remind(self, connection: AsyncConnection, now: datetime, *, messages: int) -> int:
        """``remind``: make told reconnections due for the next reminder. ``messages``: how many messages the cadence has in all.

        A notice has notice days instead of reminders: it is due at the next one, and is never given up.
        """
        check("remind", Mover.SWEEP, _R.NOTIFIED, _R.DUE)
        statement = (
            update(reconnections)
            .where(told_and_due(), or_(r.step - r.base_step < messages, IS_NOTICE))
            .values(state=_R.DUE, attempts=0, next_check_at=only_for_click())
        )
        return int((await connection.execute(statement, {"now": now})).rowcount)

    async def reopen(
        self, connection: AsyncConnection, states: Collection[str], members: Collection[str] | None, now: datetime
    ) -> int:
        """``reopen``: each member's latest reconnection, if it ended in one of ``states``. ``attempts`` is set to 0."""
        for state in states:
            check("reopen", Mover.RETRY, _R(state), _R.DUE)
        newer = reconnections.alias("other")
        is_not_latest = exists().where(newer.c.member_guid == r.member_guid, newer.c.id > r.id)
        conditions = (r.state.in_(states), r.member_guid.in_(members) if members else true(), ~is_not_latest)
        locked = select(r.id).where(*conditions).order_by(r.id).with_for_update()
        ids = list((await connection.execute(locked)).scalars())
        await self._totals.uncount_ended(connection, ids)
        statement = (
            update(reconnections)
            .where(*conditions)
            .values(
                state=_R.DUE,
                closed_at=None,
                reopen_at=None,
                emptied_at=None,
                next_attempt_at=now,
                attempts=0,
                lost_leases=0,
                # The cadence begins again at the next step. A step that a message had is never used again, sent or not.
                step=r.step + 1,
                base_step=r.step + 1,
                first_notified_at=None,
                outcome="requeued",
                outcome_at=now,
            )
            .returning(r.id, r.member_guid)
        )
        opened = (await connection.execute(statement)).all()
        record(connection, "reopen", _R.DUE, [row.id for row in opened])
        # A sweep checks whether they are still broken.
        await self._changed_members.list(connection, [row.member_guid for row in opened])
        return len(opened)

    async def resend(self, connection: AsyncConnection, notification_ids: Collection[int]) -> None:
        """``resend``: reconnections of notifications that are sent once more are ready."""
        check("resend", Mover.RETRY, _R.NOTIFIED, _R.READY)
        behind = select(link.reconnection_id).where(link.notification_id.in_(notification_ids))
        statement = (
            update(reconnections)
            .where(r.id.in_(behind), r.state == _R.NOTIFIED)
            # The message is sent once more, but its step counts once, so that the next reminder keeps its day. If a follow-up was planned, no
            # step was counted yet.
            .values(
                state=_R.READY,
                base_step=case((r.step > r.base_step, r.base_step + 1), else_=r.base_step),
                next_check_at=only_for_click(),
            )
        )
        await connection.execute(statement)

    async def give_back(self, connection: AsyncConnection, failed: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """``give_back``: MX served nobody, so these attempts (id, outcome, attempts) do not count, unless the row changed since."""
        check("give_back", Mover.DELIVER, _R.EXHAUSTED, _R.DUE)
        given = self._rows.encode(failed)
        # Only exhausted ones get an event: the application was told of the exhaustion. It was told nothing of those that are still due.
        exhausted = (
            set((await connection.execute(self._exhausted, {"given": given})).scalars())
            if are_on(connection)
            else set()
        )
        returned = (await connection.execute(self._give_back, {"given": given, "now": now})).all()
        record(connection, "give_back", _R.DUE, sorted(exhausted.intersection(row.id for row in returned)))
        # A sweep checks whether they are still broken.
        await self._changed_members.list(connection, [row.member_guid for row in returned])

    async def revivable(self, connection: AsyncConnection, notification_ids: Sequence[int]) -> list[tuple[int, int]]:
        """(notification, reconnection): ended messages, and their reconnections that did not change since. Locked."""
        if not notification_ids:
            return []
        given = self._rows.encode({"id": id_} for id_ in notification_ids)
        return [(row[0], row[1]) for row in await connection.execute(self._revivable, {"given": given})]

    async def restore_step(self, connection: AsyncConnection, steps: Sequence[Mapping[str, int]]) -> None:
        """``restore_step``: a streak of refusals was our fault, so the message is pending again, and its step is taken back.

        ``base``: 1 if the message had used up no reminder, so that ``base_step`` had grown too; else 0.
        """
        check("restore_step", Mover.DELIVER, _R.DUE, _R.READY)
        if steps:
            await connection.execute(self._restore_step, {"given": self._rows.encode(steps)})

    async def spread(self, connection: AsyncConnection, places: Mapping[int, datetime], now: datetime) -> None:
        """Not a move: after an outage the held reconnections are due one after another."""
        if places:
            given = self._rows.encode({"id": id_, "at": at} for id_, at in places.items())
            await connection.execute(self._spread, {"given": given, "now": now})

    async def no_longer_deferred(
        self, connection: AsyncConnection, member_guid: str, outcome: str, now: datetime
    ) -> None:
        """Not a move: a reconnection that was deferred with this outcome is due at once."""
        statement = (
            update(reconnections)
            .where(r.member_guid == member_guid, r.state == state_literal(_R.DUE), r.outcome == outcome)
            .values(next_attempt_at=now)
        )
        await connection.execute(statement)

    async def allow_reopening(
        self, connection: AsyncConnection, *where: Any, now: datetime, parameters: Mapping[str, object]
    ) -> None:
        """Not a move: clear ``reopen_at`` of ended reconnections, so that a new break opens another."""
        statement = update(reconnections).where(r.reopen_at.is_not(None), *where).values(reopen_at=None)
        await connection.execute(statement, {"now": now, **parameters})

    async def know_again(self, connection: AsyncConnection, ids: Collection[int]) -> None:
        """Not a move: MX knows the members of these, which ended as `gone`, again. A sweep opens another for each broken one."""
        if ids:
            given = self._rows.encode({"id": id_} for id_ in sorted(ids))
            guids = (await connection.execute(self._know_again, {"given": given})).scalars()
            await self._changed_members.list(connection, sorted(set(guids)))


def blocks_as_gone() -> ColumnElement[bool]:
    """Whether it ended because MX answered 404, and still prevents another for its member. After a deleted row it does not."""
    return and_(r.state == state_literal(_R.GONE), r.reopen_at.is_not(None))


def told_and_due() -> Any:
    """Whether its user was told, and its next reminder is due by the parameter ``now``."""
    return and_(r.state == state_literal(_R.NOTIFIED), r.next_attempt_at <= _NOW)


def _give_back(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "outcome": Text(), "attempts": Integer()}).c
    other = reconnections.alias("other")
    # An exhausted one is still at the step of the message that it was left out of. A due one was moved past that step already.
    step_to_add = case((r.state == state_literal("exhausted"), 1), else_=0)
    open_again = exists().where(other.c.member_guid == r.member_guid, other.c.closed_at.is_(None), other.c.id != r.id)
    return (
        update(reconnections)
        .where(
            r.id == given.id,
            r.outcome == given.outcome,
            r.attempts == given.attempts,
            r.state.in_((state_literal("due"), state_literal("exhausted"))),
            ~open_again,
        )
        .values(
            state=ReconnectionState.DUE,
            attempts=r.attempts - 1,
            step=r.step + step_to_add,
            base_step=r.base_step + step_to_add,
            next_attempt_at=_NOW,
            closed_at=None,
            reopen_at=None,
        )
        .returning(r.id, r.member_guid)
    )


def _revivable(rows: Rows) -> Any:
    """Ended messages, and their reconnections that did not change since, if nothing else was begun for the user."""
    ids = rows.table("given", {"id": BigInteger()})
    other_message, sibling = notifications.alias("other"), reconnections.alias("held")
    window = exists().where(windows.c.id == link.window_id, windows.c.superseded_at.is_(None))
    messaged_since = exists().where(
        other_message.c.user_guid == n.user_guid,
        (other_message.c.id > n.id) | (other_message.c.state.in_(LIVE) & (other_message.c.id != n.id)),
    )
    being_fetched = exists().where(sibling.c.user_guid == n.user_guid, sibling.c.state == ReconnectionState.LEASED)
    return (
        select(n.id, r.id)
        .join(ids, n.id == ids.c.id)
        .join(notification_reconnections, link.notification_id == n.id)
        .join(reconnections, r.id == link.reconnection_id)
        .where(
            r.state == state_literal(ReconnectionState.DUE),
            r.step == link.step + 1,
            window,
            ~messaged_since,
            ~being_fetched,
        )
        .order_by(r.id)
        .with_for_update(of=reconnections)
    )
