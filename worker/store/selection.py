"""Who is broken, in SQL: the same rule as ``policy/selection.py``; a property test compares the two."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Integer, and_, case, cast, func, literal, literal_column, null, or_, select

from worker.policy.columns import statuses_as_written
from worker.policy.selection import ERROR_CODES, HEALTHY, UNREADABLE_FOR, MemberFacts, Reason
from worker.policy.states import ReconnectionState
from worker.store.sql.application import is_guid, is_set, status_text, truth, unreadable, whole_number
from worker.store.sql.moments import NEVER, Moment, has_passed, normalised
from worker.store.sql.tables import members

m = members.c

#: The value of :func:`standing` for a member that is still broken.
BROKEN = "broken"


#: The columns that the rule reads, in the order of :class:`~worker.policy.selection.MemberFacts`.
_READ = (m.is_oauth, m.connection_status, m.error_code, m.token_expires_at, m.token_revoked_at)
#: The columns that may be unreadable, and the condition for it.
_DOUBTS: Sequence[tuple[str, ColumnElement[bool]]] = (
    *((column.name, unreadable(column)) for column in _READ),
    *((column.name, ~is_guid(column)) for column in (m.member_guid, m.user_guid)),
)


def _sum_of_doubts() -> ColumnElement[int]:
    """Which of :data:`_DOUBTS` hold, as the bits of a number."""
    bits = (case((doubt, 1 << place), else_=0) for place, (_, doubt) in enumerate(_DOUBTS))
    total: ColumnElement[int] = cast(literal(0), Integer())
    for bit in bits:
        total = total + bit
    return total


def date_that_counts() -> ColumnElement[datetime | None]:
    """When the member's token expires. If the application emptied a reckoned date, that date: the next sweep writes it again."""
    return case((is_set(m.token_expires_at), normalised(m.token_expires_at)), else_=m.expiry_reckoned)


def is_reckoned() -> ColumnElement[bool]:
    """Whether the member's date is one that we reckoned (``policy/consents.py``), or was until the application emptied it."""
    return func.coalesce(date_that_counts() == m.expiry_reckoned, False)


#: What to select for :func:`facts_of`.
FACTS: Sequence[ColumnElement[Any]] = (
    *(date_that_counts().label(column.name) if column is m.token_expires_at else column for column in _READ),
    is_reckoned().label("is_reckoned"),
    _sum_of_doubts().label("unreadable"),
)


def facts_of(values: Sequence[Any]) -> MemberFacts:
    """The facts in the values of :data:`FACTS`."""
    oauth, status, error, expires_at, revoked_at, reckoned, doubts = values
    unreadable_columns = _names_of(doubts) if doubts else ()
    return MemberFacts(oauth, status, error, expires_at, revoked_at, bool(reckoned), unreadable_columns)


def _names_of(doubts: int) -> tuple[str, ...]:
    return tuple(name for place, (name, _) in enumerate(_DOUBTS) if doubts >> place & 1)


def _revoked() -> ColumnElement[bool]:
    return normalised(m.token_revoked_at) < literal(NEVER, Moment())


def expired(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Whether the token has expired. A reckoned date that has passed does not count; the next date is reckoned from it."""
    return and_(m.token_expires_at.is_not(None), has_passed(m.token_expires_at, now), ~is_reckoned())


def _error() -> ColumnElement[bool]:
    return whole_number(m.error_code).in_(ERROR_CODES)


def is_healthy() -> ColumnElement[bool]:
    """Whether the status is empty, or that of a member that is well."""
    status = status_text(m.connection_status)
    return or_(status.is_(None), status.in_(statuses_as_written(HEALTHY)))


def is_broken(statuses: Collection[str], now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Whether a row of ``members`` is to be picked."""
    status = status_text(m.connection_status)
    return and_(
        truth(m.is_oauth).is_not(False),
        or_(_revoked(), expired(now), _error(), status.in_(statuses_as_written(statuses))),
        is_guid(m.member_guid),
        is_guid(m.user_guid),
    )


def is_well(statuses: Collection[str], now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """The opposite of :func:`is_broken`. It is spelt out, since NOT over NULL is NULL."""
    return case((is_broken(statuses, now), False), else_=True).is_(True)


def reason(now: ColumnElement[datetime]) -> ColumnElement[str]:
    """Why a broken row was picked."""
    return case(
        (_revoked(), literal(str(Reason.REVOKED))),
        (expired(now), literal(str(Reason.EXPIRED))),
        (_error(), literal(str(Reason.ERROR))),
        else_=literal(str(Reason.STATUS)),
    )


def since(now: ColumnElement[datetime]) -> ColumnElement[datetime | None]:
    """Since when a member is broken, if a date tells; else NULL."""
    return case(
        (_revoked(), normalised(m.token_revoked_at)),
        (expired(now), normalised(m.token_expires_at)),
        else_=null().cast(Moment()),
    )


def may_be_broken() -> ColumnElement[bool]:
    """The predicate of ``ix_members_suspect``, word for word and without parameters, so that the index is used."""
    not_connected = and_(
        *(m.connection_status != literal_column(f"'{form}'") for form in ("CONNECTED", "connected", "6"))
    )
    return or_(m.token_revoked_at.is_not(None), m.error_code.is_not(None), not_connected)


def may_matter() -> ColumnElement[bool]:
    """Whether a row may be broken, now or when its token expires."""
    return or_(may_be_broken(), m.token_expires_at.is_not(None))


def may_matter_by(until: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Whether a row may be broken now, or its token expires by ``until``."""
    return or_(may_be_broken(), and_(m.token_expires_at.is_not(None), normalised(m.token_expires_at) <= until))


def is_doubtful(picked_for: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether the column for which a member was picked is unreadable now. Then nothing shows that the break is over."""
    columns = {column.name: column for column in _READ}
    return or_(*(and_(picked_for == str(why), unreadable(columns[name])) for why, name in UNREADABLE_FOR.items()))


def is_of_other_user(member_guid: ColumnElement[str], user_guid: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether the member's row names another user than this; NULL if there is no row."""
    return select(m.user_guid != user_guid).where(m.member_guid == member_guid).scalar_subquery()


def standing(
    member_guid: ColumnElement[str],
    statuses: Collection[str],
    now: ColumnElement[datetime],
    *,
    picked_for: ColumnElement[str],
    user_guid: ColumnElement[str],
) -> ColumnElement[str]:
    """``broken`` if a reconnection's member still is; else the state in which the reconnection ends: reconnected, cancelled or gone.

    If the row names another user than the reconnection (``user_guid``), the reconnection is cancelled, whatever else the row holds. If the
    column for which the member was picked is unreadable now, the member still counts as broken.

    Nearly all of these members are still broken, and the small index of members that may be broken finds them. The primary key reads a
    page of a large table for each member, so it is used only for members that the small index lacks. Both are scalar queries of at most
    one row: PostgreSQL does not turn those into a join, for which it would have to guess how many members may be broken.
    """
    this = m.member_guid == member_guid
    is_same_user = m.user_guid == user_guid
    end = case(
        (~is_same_user, literal(str(ReconnectionState.CANCELLED))),
        (or_(is_broken(statuses, now), is_doubtful(picked_for)), literal(BROKEN)),
        (is_healthy(), literal(str(ReconnectionState.RECONNECTED))),
        else_=literal(str(ReconnectionState.CANCELLED)),
    )
    return func.coalesce(
        # The user is not a condition of WHERE, or PostgreSQL would look the row up by the index of users.
        select(case((is_same_user, literal(BROKEN)), else_=literal(str(ReconnectionState.CANCELLED))))
        .where(this, may_be_broken(), is_broken(statuses, now))
        .scalar_subquery(),
        select(end).where(this).scalar_subquery(),
        literal(str(ReconnectionState.GONE)),
    )
