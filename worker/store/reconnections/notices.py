"""Notices ahead of a token's expiry, in the database: opening them, and ending those that are over.

The rule is that of ``policy/notices.py``. Without ``EXPIRY_NOTICE_DAYS`` nothing is opened, and what is open still ends.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
)

from worker.policy.notices import DRIFT, horizon
from worker.policy.selection import Reason
from worker.policy.states import ReconnectionState
from worker.store.selection import is_broken, is_healthy, is_well, reason
from worker.store.sql.application import is_guid, plain_text, truth, unreadable
from worker.store.sql.moments import Moment, later, normalised
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, written

m, r = members.c, reconnections.c

IS_NOTICE = r.reason == written(Reason.EXPIRES_SOON)


class Notices:
    """The statements of a sweep that concern notices; ``days`` is ``EXPIRY_NOTICE_DAYS``."""

    def __init__(self, rows: Rows, *, statuses: Collection[str], days: Sequence[int]) -> None:
        self._rows = rows
        self._statuses = statuses
        self.days = days
        self._now: ColumnElement[datetime] = bindparam("now", type_=Moment())

    def parameters(self, now: datetime) -> dict[str, object]:
        """What the statements of :meth:`walk` and :meth:`opening` are given."""
        until = horizon(now, self.days)
        given: dict[str, object] = {"now": now, "until": until, "window": float(self.days[0] * 86_400)}
        if self._rows.is_sqlite:
            # Moments are text there, in any zone: the day alone, with a day more on either side, finds the stretch of the index.
            first, last = (now - timedelta(days=1)).date(), (until + timedelta(days=2)).date()
            given |= {"from_day": first.isoformat(), "to_day": last.isoformat()}
            given |= {"from_digits": f"{first:%Y%m%d}", "to_digits": f"{last:%Y%m%d}"}
        return given

    def walk(self) -> tuple[list[Any], ColumnElement[bool]]:
        """The order to walk ``ix_members_expiring`` in, and the stretch of it where tokens run out soon."""
        until: ColumnElement[datetime] = bindparam("until", type_=Moment())
        date: ColumnElement[Any] = m.token_expires_at
        if self._rows.is_sqlite:
            soon = [normalised(date) > self._now, normalised(date) <= until]
            date = type_coerce(date, Text())  # unread: an application's own form of a moment must compare with itself
            # Four stretches of the index: days with dashes, days without, and what begins with no digit, such as a space.
            near = [
                and_(date >= bindparam(f"from_{form}", type_=Text()), date < bindparam(f"to_{form}", type_=Text()))
                for form in ("day", "digits")
            ]
            soon.insert(0, or_(*near, date < literal_column("'0'"), date >= literal_column("':'")))
        else:
            date = type_coerce(date, Moment())
            soon = [date > self._now, date <= until]
        return [date, m.member_guid], and_(m.token_expires_at.is_not(None), *soon)

    def _worth_one(self) -> ColumnElement[bool]:
        """Well, and without a reconnection that is open, at rest, or ended since its first notice was due.

        Whoever came back this close to the old date, or was told and set aside, hears no more of that date; only where the date
        itself was moved is it spoken of again.
        """
        first_day = later(normalised(m.token_expires_at), -bindparam("window", type_=Float()))
        ended = and_(r.closed_at > first_day, func.coalesce(r.outcome, "") != "expiry_moved")
        in_the_way = exists().where(
            r.member_guid == m.member_guid, or_(r.closed_at.is_(None), r.reopen_at > self._now, ended)
        )
        guids = and_(is_guid(m.member_guid), is_guid(m.user_guid))
        well = and_(truth(m.is_oauth).is_not(False), is_healthy(), guids, is_well(self._statuses, self._now))
        return and_(well, ~in_the_way)

    def opening(self, page: ColumnElement[bool]) -> Any:
        """Open a notice for every member of a page that is worth one."""
        values = {
            "member_guid": m.member_guid,
            "user_guid": m.user_guid,
            "institution_code": plain_text(m.institution_code),
            "state": literal(str(ReconnectionState.DUE)),
            "reason": literal(str(Reason.EXPIRES_SOON)),
            "broken_since": normalised(m.token_expires_at),
            "opened_at": self._now,
            "next_attempt_at": self._now,
        }
        return (
            self._rows.insert(reconnections)
            .from_select(list(values), select(*values.values()).where(page, self._worth_one()))
            .on_conflict_do_nothing()
        )

    def counting(self) -> Any:
        """How many :meth:`opening` would open."""
        return select(func.count()).select_from(members).where(self.walk()[1], self._worth_one())

    def over(self) -> tuple[ColumnElement[bool], ColumnElement[str], ColumnElement[str]]:
        """Which notices are over, the state that each ends in, and its outcome: of members that broke, whose token was renewed, or whose date was moved otherwise."""
        date, drift = normalised(m.token_expires_at), DRIFT.total_seconds()
        cancelled, reconnected = ReconnectionState.CANCELLED, ReconnectionState.RECONNECTED
        broken = is_broken(self._statuses, self._now)
        cases = [
            (and_(broken, reason(self._now) == str(Reason.EXPIRED)), cancelled, "expired_after_notice"),
            (broken, cancelled, "broke_after_notice"),
            *([] if self.days else [(literal(1) == literal(1), cancelled, "notices_off")]),
            (truth(m.is_oauth).is_(False), cancelled, "not_oauth"),
            (and_(date.is_(None), ~unreadable(m.token_expires_at)), reconnected, "renewed"),
            (date > _shifted(r.broken_since, drift), reconnected, "renewed"),
            (date < _shifted(r.broken_since, -drift), cancelled, "expiry_moved"),
        ]
        state = case(*((condition, literal(str(end))) for condition, end, _ in cases), else_=null())
        outcome = case(*((condition, literal(code)) for condition, _, code in cases), else_=null())
        where = and_(
            r.closed_at.is_(None),
            IS_NOTICE,
            r.state != written("leased"),
            m.member_guid == r.member_guid,
            state.is_not(None),
        )
        return where, state, outcome


def _shifted(moment: ColumnElement[datetime], seconds: float) -> ColumnElement[datetime]:
    return later(moment, literal(seconds, Float()))
