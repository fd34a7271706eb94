"""Who is broken, in SQL: the twin of ``policy/selection.py``, held to it by a property test."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, literal, literal_column, null, or_, select

from worker.policy.selection import ERROR_CODES, HEALTHY, Reason
from worker.policy.states import ReconnectionState
from worker.store.moments import Moment, normalised
from worker.store.tables import members

m = members.c

#: What :func:`standing` says of a member that is broken still.
BROKEN = "broken"


def _revoked() -> ColumnElement[bool]:
    return normalised(m.token_revoked_at).is_not(None)


def _expired(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    return and_(m.token_expires_at.is_not(None), normalised(m.token_expires_at) <= now)


def is_broken(statuses: Collection[str], now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Whether a row of ``members`` is to be picked."""
    return and_(
        m.is_oauth.is_not(False),
        or_(_revoked(), _expired(now), m.error_code.in_(ERROR_CODES), m.connection_status.in_(statuses)),
    )


def is_well(statuses: Collection[str], now: ColumnElement[datetime]) -> ColumnElement[bool]:
    """The opposite; spelt out, since NOT over NULLs is neither true nor false."""
    return case((is_broken(statuses, now), False), else_=True).is_(True)


def reason(now: ColumnElement[datetime]) -> ColumnElement[str]:
    """Why a broken row was picked."""
    return case(
        (_revoked(), literal(str(Reason.REVOKED))),
        (_expired(now), literal(str(Reason.EXPIRED))),
        (m.error_code.in_(ERROR_CODES), literal(str(Reason.ERROR))),
        else_=literal(str(Reason.STATUS)),
    )


def since(now: ColumnElement[datetime]) -> ColumnElement[datetime | None]:
    """Since when it is broken, where a date tells; NULL where none does."""
    return case(
        (_revoked(), normalised(m.token_revoked_at)),
        (_expired(now), normalised(m.token_expires_at)),
        else_=null().cast(Moment()),
    )


def is_suspect() -> ColumnElement[bool]:
    """The predicate of ``ix_members_suspect``, word for word and without parameters, so that the index is used."""
    return or_(
        m.token_revoked_at.is_not(None), m.error_code.is_not(None), m.connection_status != literal_column("'CONNECTED'")
    )


def standing(
    member_guid: ColumnElement[str], statuses: Collection[str], now: ColumnElement[datetime]
) -> ColumnElement[str]:
    """How an episode's member stands: ``broken``, or the state that the episode ends in: reconnected, cancelled or gone.

    Nearly all of them are broken still, and those are found in the small index of suspects. By the primary key each would be on
    a page of its own among millions, which then is read, marked and logged as a whole; only who is left is looked up there.
    Scalar queries, one row at most, since PostgreSQL makes no join of them: it cannot tell how many suspects there are.
    """
    this = m.member_guid == member_guid
    healthy = or_(m.connection_status.is_(None), m.connection_status.in_(HEALTHY))
    end = case(
        (is_broken(statuses, now), literal(BROKEN)),
        (healthy, literal(str(ReconnectionState.RECONNECTED))),
        else_=literal(str(ReconnectionState.CANCELLED)),
    )
    return func.coalesce(
        select(literal(BROKEN)).where(this, is_suspect(), is_broken(statuses, now)).scalar_subquery(),
        select(end).where(this).scalar_subquery(),
        literal(str(ReconnectionState.GONE)),
    )
