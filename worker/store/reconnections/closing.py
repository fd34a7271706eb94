"""Closing reconnections: what else happens to their windows, messages and members, in the same transaction.

A stage closes reconnections one by one, together with its other results: :meth:`Transitions.apply` writes them and calls
:meth:`Closing.finish`. A sweep closes all that satisfy a condition with :meth:`Closing.close`, which calls ``finish`` too. No other code
deletes their URIs, removes them from their messages, or writes into ``members`` that a member is well.

Pending messages that are about nothing else are cancelled by :meth:`Closing.close`. A click, a sync and a hint call ``cancel_about``
themselves after ``apply``. The stages need not: deliver writes the state of its own message, and fetch and verify close no reconnection
that a pending message is about.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import Mover, ReconnectionState, check
from worker.store.consents import Consents
from worker.store.events.recording import record
from worker.store.members import Well, mark_well
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections
from worker.store.windows import Windows

r = reconnections.c
_R = ReconnectionState


class Closing:
    """Writes what else happens when reconnections close, in the transaction of the caller. Its SQL is built once for each database."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._windows = rows.part(Windows)
        self._notifications = rows.part(NotificationTransitions)
        self._consents = rows.part(Consents)

    async def close(
        self,
        connection: AsyncConnection,
        *where: ColumnElement[bool],
        before: Sequence[ReconnectionState],
        after: Sequence[ReconnectionState],
        state: ColumnElement[str] | ReconnectionState,
        outcome: ColumnElement[str] | str,
        reopen_at: datetime | None = None,
        now: datetime,
        parameters: Mapping[str, object] | None = None,
    ) -> int:
        """Close all reconnections that satisfy ``where``; returns how many.

        ``parameters``: those of ``where``, besides ``now``. ``where`` must select only states of ``before``, and ``state`` must be one of
        ``after``. ``reopen_at``: when a sweep may open another for the member; ``None``: at once, if it breaks again.
        """
        for state_before in before:
            check("close", Mover.SWEEP, state_before, *after)
        moment = bindparam("now", type_=Moment())
        values: dict[str, Any] = {"state": state, "outcome": outcome, "outcome_at": moment, "closed_at": moment}
        values |= {"owed_at": None, "next_check_at": None}
        if reopen_at is not None:
            values["reopen_at"] = reopen_at
        statement = update(reconnections).where(*where).values(values).returning(r.id, r.state)
        closed_rows = (await connection.execute(statement, {"now": now, **(parameters or {})})).all()
        ids = [row.id for row in closed_rows]
        for row in closed_rows:
            record(connection, "close", _R(row.state), (row.id,))
        if not ids:
            return 0
        await self.finish(connection, wiped=ids, closed=ids, now=now)
        await self._consents.returned(connection, ids, now)
        await self._notifications.cancel_about(connection, ids, now)
        return len(ids)

    async def finish(
        self,
        connection: AsyncConnection,
        *,
        wiped: Collection[int],
        closed: Collection[int],
        left_out: Sequence[tuple[int, int]] = (),
        well: Collection[Well] = (),
        now: datetime,
    ) -> None:
        """Do what else belongs to closing reconnections.

        - ``wiped``: reconnections whose windows are superseded: those that closed, were requeued, or get a fresh window.
        - ``closed``: those of them that closed. Their clicks' windows are superseded too.
        - ``left_out``: items (notification, reconnection) to remove from messages.
        - ``well``: MX's answers about members that are back.
        """
        await self._windows.wipe(connection, wiped, now, closed=closed)
        await self._notifications.leave_out(connection, left_out)
        await mark_well(connection, self._rows, well, now)
