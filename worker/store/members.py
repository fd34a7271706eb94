"""Writes to ``members``: what MX said of a member that is back, the GUID that a member moved to, and whether its user wants messages about it."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    null,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.selection import ERROR_CODES
from worker.store.consents import on_return
from worker.store.selection import is_reckoned
from worker.store.sql.application import is_set, whole_number
from worker.store.sql.moments import Moment, has_passed
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members
from worker.store.sql.triggers import OWN

m = members.c

#: The outcome of a reconnection whose user asked for no messages about its member.
MUTED = "muted"


class Well(msgspec.Struct, frozen=True, kw_only=True):
    """What MX said of a member that is back."""

    #: The application's row; MX may have answered under another GUID.
    member_guid: str
    connection_status: str
    error_code: int | None
    #: The last successful aggregation: dates of the token up to then are disproved. ``None``: MX did not say.
    aggregated_at: datetime | None


async def mark_well(connection: AsyncConnection, rows: Rows, well: Collection[Well], now: datetime) -> None:
    """Write what MX said, and clear what it disproves, so that no sweep picks these members for it again.

    It disproves dates of the token up to the last successful aggregation, and an error code that asks for OAuth. A later date is a new
    break, and any other error code stays. If the application has no date of its own, the expiry of the token is reckoned from ``now``
    (``store/consents.py``).
    """
    if not well:
        return
    given = rows.table(
        "given",
        {"member_guid": Text(), "connection_status": Text(), "error_code": Integer(), "aggregated_at": Moment()},
    ).c
    has_own_date = and_(is_set(m.token_expires_at), ~is_reckoned())
    disproved = has_passed(m.token_expires_at, given.aggregated_at)
    expiry = on_return(
        bindparam("now", type_=Moment()),
        keep=and_(has_own_date, func.coalesce(~disproved, true())),
        otherwise=null(),
    )
    # This lists no member as changed: a reconnection closes in the same transaction, and Changes.list_closed lists members to visit.
    unlisted = [] if rows.is_sqlite else [select(func.set_config(OWN, "1", True)).scalar_subquery() == "1"]
    statement = (
        update(members)
        .where(m.member_guid == given.member_guid, *unlisted)
        .values(
            connection_status=given.connection_status,
            error_code=case(
                (given.error_code.is_not(None), given.error_code),
                (whole_number(m.error_code).in_(ERROR_CODES), null()),
                else_=m.error_code,
            ),
            token_revoked_at=_unless_before(m.token_revoked_at, given.aggregated_at),
            **expiry,
        )
    )
    ordered = sorted(well, key=lambda one: one.member_guid)  # the order in which every transaction locks them
    given_rows = rows.encode(msgspec.structs.asdict(one) for one in ordered)
    await connection.execute(statement, {"given": given_rows, "now": now})


async def keep_moves(connection: AsyncConnection, rows: Rows, moves: Mapping[str, str]) -> None:
    """Write into the rows of these members the GUID that MX uses for them now; reconnections that knew it are deleted.

    Some rows are left alone: a row that has a ``moved_to``; a row that is named by the client's own id, since MX's GUID differs from it
    anyway; a row whose user also has a row for the new GUID. That other row would count as its double, and nobody would be told when it
    breaks (``store/reconnections/moving.py``).
    """
    given = rows.table("given", {"member_guid": Text(), "moved_to": Text()}).c
    moved = [{"member_guid": old, "moved_to": new} for old, new in sorted(moves.items()) if old.startswith("MBR-")]
    if moved:
        new = members.alias("new_row").c
        has_row = exists().where(new.member_guid == given.moved_to, new.user_guid == m.user_guid)
        statement = (
            update(members)
            .where(m.member_guid == given.member_guid, m.moved_to.is_(None), m.member_guid != given.moved_to, ~has_row)
            .values(moved_to=given.moved_to)
        )
        await connection.execute(statement, {"given": rows.encode(moved)})


def _unless_before(date: Any, aggregated_at: Any) -> Any:
    """NULL if the date is not after the aggregation. An unreadable date stays as it is, and `doctor` names it."""
    return case((has_passed(date, aggregated_at), null()), else_=date)


def muted(member_guid: ColumnElement[str]) -> ColumnElement[int]:
    """1 if the user asked for no messages about this member, else 0.

    It is a scalar query of the small index ``ix_members_muted``, which has few members. PostgreSQL would turn ``NOT EXISTS`` into a join
    and choose another plan for it.
    """
    muted_member = members.alias("muted_member").c
    query = select(literal(1)).where(
        muted_member.member_guid == member_guid, muted_member.muted_at.is_not(None), is_set(muted_member.muted_at)
    )
    return func.coalesce(query.scalar_subquery(), 0)


async def mute(connection: AsyncConnection, member_guid: str, now: datetime) -> None:
    """Send no more messages about this member. If it was muted before, it keeps the date."""
    statement = update(members).where(m.member_guid == member_guid, ~is_set(m.muted_at)).values(muted_at=now)
    await connection.execute(statement)


async def unmute(connection: AsyncConnection, member_guid: str) -> None:
    """Send messages about this member again."""
    await connection.execute(update(members).where(m.member_guid == member_guid).values(muted_at=None))
