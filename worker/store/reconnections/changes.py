"""The changes that a stage settles: one for each reconnection. Each function has the name of its move in ``policy/states.py``."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Integer, Text, bindparam, case, func, or_, update

from worker.policy.states import OPEN, ReconnectionState
from worker.store.members import Well
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections, state_literal

r = reconnections.c
_R = ReconnectionState
_NOW = bindparam("now", type_=Moment())
#: These states keep ``owed_at``: MX has not served the user whose click failed. Every other state clears it. In `ready`, for example, MX gave
#: out a window, and the message about it tells the user. A message that told the user clears ``owed_at`` too, even if the click failed
#: while the message waited.
_NOT_SERVED = (_R.DUE, _R.LEASED, _R.NOTIFIED)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One reconnection's move, and what is written with it. Columns that are not named stay as they are."""

    id: int
    name: str
    before: ReconnectionState
    after: ReconnectionState
    columns: Mapping[str, Any]
    #: Whether its stored URI is deleted: it closed, it is requeued, or a fresh window replaces the older one.
    wipes: bool = False
    #: If it closed as reconnected by MX's answer: that answer.
    well: Well | None = None


def ready(id_: int, *, outcome: str, attempts: int, moved_to: str | None, had_window: bool) -> Change:
    """``ready``: MX gave out a window, which the caller stores."""
    columns = {"outcome": outcome, "attempts": attempts, "moved_to": moved_to}
    return Change(id=id_, name="ready", before=_R.LEASED, after=_R.READY, columns=columns, wipes=had_window)


def reschedule(id_: int, *, outcome: str, attempts: int, at: datetime | None) -> Change:
    """``reschedule``: fetch got no window; due again at ``at``, with so many failed attempts."""
    columns = {"outcome": outcome, "attempts": attempts, "next_attempt_at": at}
    return Change(id=id_, name="reschedule", before=_R.LEASED, after=_R.DUE, columns=columns)


def after_message(id_: int, after: ReconnectionState, *, now: datetime, told: bool, **columns: Any) -> Change:
    """``notify``, or ``go_on`` if the message told nobody. ``attempts`` is set to 0."""
    name = "notify" if after is _R.NOTIFIED else "go_on"
    all_columns = {"attempts": 0, "notified_at": now if told else None, **columns}
    return Change(id=id_, name=name, before=_R.READY, after=after, columns=all_columns)


def leave_out(id_: int, *, at: datetime, **columns: Any) -> Change:
    """``leave_out``: it is left out of its message, and due again at ``at``."""
    return Change(
        id=id_, name="leave_out", before=_R.READY, after=_R.DUE, columns={"next_attempt_at": at, **columns}, wipes=True
    )


def close(
    id_: int,
    before: ReconnectionState,
    after: ReconnectionState,
    *,
    now: datetime,
    well: Well | None = None,
    had_window: bool = True,
    **columns: Any,
) -> Change:
    """``close``. ``reopen_at`` in ``columns``: when a sweep may open another; without it at once, if the member breaks again."""
    return Change(
        id=id_,
        name="close",
        before=before,
        after=after,
        columns={"closed_at": now, **columns},
        wipes=had_window,
        well=well,
    )


def checked(id_: int, state: ReconnectionState, epoch: int, *, again_at: datetime, **columns: Any) -> Change:
    """Not a move: a check showed that the reconnection stays open. Discarded if it was claimed or reminded since.

    ``again_at``: what taking the check wrote as ``next_check_at``. If the row has an earlier moment, a click or a hint came during the
    check, and the earlier of both moments counts.
    """
    all_columns = {"epoch": epoch, "again_at": again_at, **columns}
    return Change(id=id_, name="", before=state, after=state, columns=all_columns)


def applying(rows: Rows) -> Any:
    """The UPDATE that writes changes.

    A column for which a change gives no value keeps its value. Two columns follow the state instead. ``next_attempt_at`` is NULL after a
    move that gives none. ``next_check_at`` is NULL once the reconnection closed. After a move to another open state the row keeps its own
    ``next_check_at`` if that is earlier than the given one, or if none is given: a click or a hint wrote it.
    """
    given = rows.table(
        "given",
        {
            "id": BigInteger(),
            "epoch": BigInteger(),
            "before": Text(),
            "state": Text(),
            "outcome": Text(),
            "next_attempt_at": Moment(),
            "attempts": Integer(),
            "step": Integer(),
            "base_step": Integer(),
            "notified_at": Moment(),
            "next_check_at": Moment(),
            "again_at": Moment(),
            "checks": Integer(),
            "closed_at": Moment(),
            "reopen_at": Moment(),
            "moved_to": Text(),
        },
    ).c
    is_check = given.state == given.before
    is_for_hint = or_(
        is_check & (r.next_check_at < given.again_at),
        ~is_check & given.state.in_([state_literal(state) for state in OPEN]),
    )
    is_earlier = given.next_check_at.is_(None) | (r.next_check_at < given.next_check_at)
    return (
        update(reconnections)
        .where(r.id == given.id, r.state == given.before, r.epoch == func.coalesce(given.epoch, r.epoch))
        .values(
            state=given.state,
            outcome=func.coalesce(given.outcome, r.outcome),
            # Also after a check, so that no member is checked twice within ten seconds for a hint.
            outcome_at=case((given.outcome.is_not(None) | is_check, _NOW), else_=r.outcome_at),
            next_attempt_at=case((is_check, r.next_attempt_at), else_=given.next_attempt_at),
            attempts=func.coalesce(given.attempts, r.attempts),
            step=func.coalesce(given.step, r.step),
            base_step=func.coalesce(given.base_step, r.base_step),
            notified_at=func.coalesce(given.notified_at, r.notified_at),
            first_notified_at=func.coalesce(r.first_notified_at, given.notified_at),
            next_check_at=case((is_for_hint & is_earlier, r.next_check_at), else_=given.next_check_at),
            owed_at=case(
                (given.notified_at.is_not(None), None),
                (given.state.in_([state_literal(state) for state in _NOT_SERVED]), r.owed_at),
                else_=None,
            ),
            checks=func.coalesce(given.checks, r.checks),
            closed_at=given.closed_at,
            reopen_at=given.reopen_at,
            moved_to=func.coalesce(given.moved_to, r.moved_to),
            lease_worker=None,
            lease_expires_at=None,
            # A check does not show why workers died with the row.
            lost_leases=case((is_check, r.lost_leases), else_=0),
        )
        .returning(r.id)
    )
