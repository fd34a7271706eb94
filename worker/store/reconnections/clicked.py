"""Writes to a reconnection after a click or the end of OAuth. They change no state, except :meth:`Clicked.tell`."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Float, String, bindparam, case, exists, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.events import EventType
from worker.policy.states import Mover, ReconnectionState, check
from worker.store.events.recording import are_on, record_about
from worker.store.reconnections.checks import only_for_click
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.selection import is_reckoned
from worker.store.sql.moments import Moment, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, state_literal

r = reconnections.c
_R = ReconnectionState

_ID = bindparam("of", type_=BigInteger())
_NOW = bindparam("now", type_=Moment())


#: Two checks of a member for a hint are at least this far apart (seconds).
CHECKS_APART = 10.0


class LockedReconnection(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a reconnection whose row is locked."""

    state: ReconnectionState
    is_open: bool


class Clicked:
    """Writes after a click, in the transaction of the caller. Its SQL is built once for each database."""

    def __init__(self, rows: Rows) -> None:  # noqa: ARG002 - as every part of a store is made
        self._lock = select(r.state, r.closed_at).where(r.id == _ID).with_for_update()
        self._owe = (
            update(reconnections)
            .where(r.id == _ID, r.closed_at.is_(None))
            .values(owed_at=func.coalesce(r.owed_at, _NOW))
        )
        self._serve = serving()
        self._at = select(r.moved_to).where(r.id == _ID)
        # Two statements: an OR over two columns would read every open reconnection.
        self._check_now = [_check_now(column) for column in (r.member_guid, r.moved_to)]
        check("remind", Mover.SWEEP, _R.NOTIFIED, _R.DUE)
        self._tell = (
            update(reconnections)
            .where(
                r.owed_at.is_not(None),
                r.owed_at <= bindparam("owed_before", type_=Moment()),
                r.state == state_literal(_R.NOTIFIED),
            )
            .values(
                state=_R.DUE,
                next_attempt_at=_NOW,
                next_check_at=only_for_click(),
                attempts=0,
                owed_at=None,
                # The message uses up no reminder: see policy/cadence.py, `CadencePosition.before_one_that_does_not_count`.
                base_step=case((r.base_step < r.step, r.base_step + 1), else_=r.base_step),
            )
        )

    async def lock(self, connection: AsyncConnection, id_: int) -> LockedReconnection:
        """Lock a reconnection and return its state. If its user was forgotten, the state is `gone`."""
        row = (await connection.execute(self._lock, {"of": id_})).first()
        if row is None:
            return LockedReconnection(state=_R.GONE, is_open=False)
        return LockedReconnection(state=_R(row.state), is_open=row.closed_at is None)

    async def owe(self, connection: AsyncConnection, id_: int, clicked_at: datetime) -> None:
        """Store that MX or the bank failed a click at this moment."""
        await connection.execute(self._owe, {"of": id_, "now": clicked_at})

    async def serve(self, connection: AsyncConnection, id_: int, *, moved_to: str | None) -> None:
        """Store that MX gave out a window for a click. ``moved_to``: the GUID of the answer, if it is another."""
        moved = (
            moved_to is not None and are_on(connection) and await connection.scalar(self._at, {"of": id_}) != moved_to
        )
        await connection.execute(self._serve, {"of": id_, "now_at": moved_to})
        if moved:
            record_about(connection, EventType.MOVED, (id_,))

    async def check_now(self, connection: AsyncConnection, member_guid: str, now: datetime) -> int:
        """Make this member, or one that moved to this GUID, due for a check now, or 10 s after its last one; how many there are."""
        parameters = {"guid": member_guid, "now": now}
        return sum([int((await connection.execute(statement, parameters)).rowcount) for statement in self._check_now])

    async def tell(self, connection: AsyncConnection, owed_before: datetime, now: datetime) -> int:
        """``remind`` before its day: make reconnections due with a click that failed before ``owed_before`` and none served since; how many."""
        return int((await connection.execute(self._tell, {"owed_before": owed_before, "now": now})).rowcount)


def noting(*, of: Any, now: Any, soon: Any) -> Any:
    """A user pressed the button at ``now``: the member of the reconnection ``of`` is to be checked by ``soon``. Part of a statement."""
    return update(reconnections).where(r.id == of).values(clicked_at=now, next_check_at=_sooner(soon))


def serving() -> Any:
    """MX gave out a window for a click on an open reconnection. Part of a statement."""
    moved_to = func.coalesce(bindparam("now_at", type_=String()), r.moved_to)
    return update(reconnections).where(r.id == _ID, r.closed_at.is_(None)).values(owed_at=None, moved_to=moved_to)


def _sooner(moment: ColumnElement[datetime]) -> ColumnElement[Any]:
    """The next check, at this moment or earlier. A closed reconnection gets none.

    Leased and ready ones are not checked, since fetch and deliver ask MX. The check is made once they are due or notified again.
    A notice gets a check only if its date was reckoned: nothing else would show that the consent was renewed.
    """
    sooner = case((r.next_check_at < moment, r.next_check_at), else_=moment)
    return case(
        (r.closed_at.is_not(None), r.next_check_at),
        (~IS_NOTICE, sooner),
        (exists().where(members.c.member_guid == r.member_guid, is_reckoned()), sooner),
        else_=r.next_check_at,
    )


def _check_now(column: ColumnElement[Any]) -> Any:
    allowed_at = later(r.outcome_at, literal(CHECKS_APART, Float()))
    return (
        update(reconnections)
        .where(column == bindparam("guid", type_=String()), r.closed_at.is_(None), ~IS_NOTICE)
        .values(next_check_at=_sooner(case((allowed_at > _NOW, allowed_at), else_=_NOW)))
    )
