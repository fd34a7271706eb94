"""Notices ahead of a token's expiry, in the database: opening them, and ending those that are over.

The rule is that of ``policy/notices.py``. Without ``EXPIRY_NOTICE_DAYS`` no notice is opened, and open ones end.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    null,
    or_,
    select,
)

from worker.policy.notices import DRIFT, horizon
from worker.policy.recovery import USER_CHANGED
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.store.reconnections.moving import is_double, known_guid
from worker.store.selection import date_that_counts, is_broken, is_healthy, is_reckoned, is_well, reason
from worker.store.sql.application import is_guid, plain_text, truth, unreadable
from worker.store.sql.moments import Moment, dated_between, dates_between, later, normalised
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, state_literal

m, r = members.c, reconnections.c

IS_NOTICE = r.reason == state_literal(Reason.EXPIRES_SOON)


class Notices:
    """The statements of a sweep that concern notices; ``days`` is ``EXPIRY_NOTICE_DAYS``."""

    def __init__(self, rows: Rows, *, statuses: Collection[str], days: Sequence[int]) -> None:
        self._rows = rows
        self._statuses = statuses
        self.days = days
        self._now: ColumnElement[datetime] = bindparam("now", type_=Moment())

    def parameters(self, now: datetime) -> dict[str, object]:
        """The parameters of the statements of :meth:`opening` and :meth:`counting`."""
        dates = dates_between(now, horizon(now, self.days), is_sqlite=self._rows.is_sqlite)
        return {"now": now, "window": float(self.days[0] * 86_400), **dates}

    def _expires_soon(self) -> ColumnElement[bool]:
        return and_(m.token_expires_at.is_not(None), dated_between(m.token_expires_at, self._rows.is_sqlite))

    def _may_get_notice(self) -> ColumnElement[bool]:
        """Whether a well member may get a notice: no reconnection of it prevents one.

        An open reconnection prevents it. So does one of the same user whose ``reopen_at`` lies ahead, or that ended after the first notice
        day of this expiry: that user came back or was told already. A notice that ended because its date was moved, or because the row named
        another user, does not prevent it.
        """
        first_day = later(normalised(m.token_expires_at), -bindparam("window", type_=Float()))
        ended_since = and_(r.closed_at > first_day, func.coalesce(r.outcome, "").not_in(("expiry_moved", USER_CHANGED)))
        blocks_its_user = and_(r.user_guid == m.user_guid, or_(r.reopen_at > self._now, ended_since))
        is_blocked = exists().where(r.member_guid == m.member_guid, or_(r.closed_at.is_(None), blocks_its_user))
        guids = and_(is_guid(m.member_guid), is_guid(m.user_guid))
        well = and_(truth(m.is_oauth).is_not(False), is_healthy(), guids, is_well(self._statuses, self._now))
        return and_(well, ~is_blocked, ~is_double())

    def opening(self, condition: ColumnElement[bool]) -> Any:
        """Open a notice for each of these members whose token expires soon and that may get one."""
        values = {
            "member_guid": m.member_guid,
            "user_guid": m.user_guid,
            "moved_to": known_guid(),
            "institution_code": plain_text(m.institution_code),
            "state": literal(str(ReconnectionState.DUE)),
            "reason": literal(str(Reason.EXPIRES_SOON)),
            "broken_since": normalised(m.token_expires_at),
            "opened_at": self._now,
            "next_attempt_at": self._now,
        }
        return (
            self._rows.insert(reconnections)
            .from_select(
                list(values),
                select(*values.values())
                .where(condition, self._expires_soon(), self._may_get_notice())
                .order_by(m.member_guid),
            )
            .on_conflict_do_nothing()
        )

    def counting(self) -> Any:
        """How many :meth:`opening` would open."""
        return select(func.count()).select_from(members).where(self._expires_soon(), self._may_get_notice())

    def ending(self) -> tuple[ColumnElement[bool], ColumnElement[str], ColumnElement[str]]:
        """Which notices are over, the state in which each ends, and its outcome: the member broke, the token was renewed, or the date was moved.

        A reckoned date that moves ahead does not show a renewal. Verify ends the notice of a member that came back.
        """
        date, drift = date_that_counts(), DRIFT.total_seconds()
        cancelled, reconnected = ReconnectionState.CANCELLED, ReconnectionState.RECONNECTED
        broken = is_broken(self._statuses, self._now)
        cases = [
            (and_(broken, reason(self._now) == str(Reason.EXPIRED)), cancelled, "expired_after_notice"),
            (broken, cancelled, "broke_after_notice"),
            *([] if self.days else [(literal(1) == literal(1), cancelled, "notices_off")]),
            (truth(m.is_oauth).is_(False), cancelled, "not_oauth"),
            (and_(date.is_(None), ~unreadable(m.token_expires_at)), reconnected, "renewed"),
            (and_(is_reckoned(), date > _shifted(r.broken_since, drift)), cancelled, "expiry_moved"),
            (date > _shifted(r.broken_since, drift), reconnected, "renewed"),
            (date < _shifted(r.broken_since, -drift), cancelled, "expiry_moved"),
        ]
        state = case(*((condition, literal(str(end))) for condition, end, _ in cases), else_=null())
        outcome = case(*((condition, literal(code)) for condition, _, code in cases), else_=null())
        where = and_(
            r.closed_at.is_(None),
            IS_NOTICE,
            r.state != state_literal("leased"),
            m.member_guid == r.member_guid,
            state.is_not(None),
        )
        return where, state, outcome


def _shifted(moment: ColumnElement[datetime], seconds: float) -> ColumnElement[datetime]:
    return later(moment, literal(seconds, Float()))
