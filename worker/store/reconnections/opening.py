"""Opening reconnections for members that are broken; :mod:`~worker.store.reconnections.notices` opens those ahead of an expiry."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.states import ReconnectionState
from worker.store.events.recording import are_on, record
from worker.store.reconnections.moving import is_double, known_guid
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.selection import expired, is_broken, reason, since
from worker.store.sql.application import plain_text
from worker.store.sql.moments import NEVER, Moment, later, normalised
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections

m, r = members.c, reconnections.c


class Opening:
    """The statements of a sweep that open reconnections; ``statuses`` is ``RECONNECT_STATUSES``. They read the parameters
    ``now`` and ``grace``, in seconds.
    """

    def __init__(self, rows: Rows, *, statuses: Collection[str]) -> None:
        self._rows = rows
        self._statuses = statuses
        self._now: ColumnElement[datetime] = bindparam("now", type_=Moment())

    def to_open(self) -> ColumnElement[bool]:
        """Whether to open one: the member is broken, none is open, and none that ended without success still blocks it (``reopen_at``).

        A revocation after that end lifts the block. So does an expiry date after that end that has passed. An ended notice never blocks, nor
        does a reconnection of another user. A member is skipped if another row of the same user moved to its GUID: that row's reconnection
        covers it.
        """
        revoked_at, never = normalised(m.token_revoked_at), literal(NEVER, Moment())
        newer_break = or_(
            and_(revoked_at > r.closed_at, revoked_at < never),
            and_(normalised(m.token_expires_at) > r.closed_at, expired(self._now)),
        )
        is_same_user = r.user_guid == m.user_guid
        still_blocks = and_(r.reopen_at > self._now, ~func.coalesce(newer_break, false()), ~IS_NOTICE, is_same_user)
        is_blocked = exists().where(r.member_guid == m.member_guid, or_(r.closed_at.is_(None), still_blocks))
        return and_(is_broken(self._statuses, self._now), ~is_blocked, ~is_double())

    def opening(self, condition: ColumnElement[bool]) -> Any:
        """Open a reconnection for each of these members that :meth:`to_open` selects. They are sorted by GUID, so that two sweeps
        at once cannot deadlock."""
        known_since = since(self._now)
        broken_since = case((and_(known_since.is_not(None), known_since < self._now), known_since), else_=self._now)
        speak_at = later(broken_since, bindparam("grace", type_=Float()))
        values = {
            "member_guid": m.member_guid,
            "user_guid": m.user_guid,
            "moved_to": known_guid(),
            "institution_code": plain_text(m.institution_code),
            "state": literal(str(ReconnectionState.DUE)),
            "reason": reason(self._now),
            "broken_since": broken_since,
            "opened_at": self._now,
            "next_attempt_at": case((speak_at > self._now, speak_at), else_=self._now),
        }
        return (
            self._rows.insert(reconnections)
            .from_select(
                list(values), select(*values.values()).where(condition, self.to_open()).order_by(m.member_guid)
            )
            .on_conflict_do_nothing()
        )


async def open_all(connection: AsyncConnection, opening: Any, parameters: Mapping[str, object]) -> int:
    """``open``: run a statement that opens reconnections; returns how many."""
    if not are_on(connection):
        # SQLAlchemy does not keep an INSERT's row count unless it is told to.
        return int((await connection.execute(opening.execution_options(preserve_rowcount=True), parameters)).rowcount)
    ids = (await connection.execute(opening.returning(r.id), parameters)).scalars().all()
    record(connection, "open", ReconnectionState.DUE, ids)
    return len(ids)
