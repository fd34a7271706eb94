"""Members that moved to another GUID at MX: their reconnections store it, so that MX is asked for the new one."""

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Text, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.events import EventType
from worker.store.events.recording import record_about
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections

m, r = members.c, reconnections.c


def known_guid() -> ColumnElement[str | None]:
    """The GUID that MX now uses for a member, by its row or an earlier reconnection; NULL: its own.

    A sync or a hint writes it into the row. A fetch, a check or a click writes it only into the reconnection.
    """
    earlier = reconnections.alias("earlier").c
    last = select(earlier.moved_to).where(earlier.member_guid == m.member_guid, earlier.moved_to.is_not(None))
    return func.coalesce(m.moved_to, last.order_by(earlier.id.desc()).limit(1).scalar_subquery())


def older_row() -> ColumnElement[str | None]:
    """The GUID of another row of the user for the same member, which moved to this GUID; NULL if there is none.

    The plain SQL is a join, for which PostgreSQL would read all members.
    """
    older = members.alias("older").c
    query = select(older.member_guid).where(
        older.moved_to == m.member_guid,
        older.moved_to.is_not(None),  # of the small index ix_members_moved
        older.user_guid == m.user_guid,
        older.gone_at.is_(None),
    )
    return query.limit(1).scalar_subquery()


def is_double() -> ColumnElement[bool]:
    """Whether the user has another row for this member, under its old GUID."""
    return older_row().is_not(None)


class Moving:
    """Its statement, made once; in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        given = rows.table("given", {"member_guid": Text(), "moved_to": Text()}).c
        self._note = (
            update(reconnections)
            .where(r.member_guid == given.member_guid, r.closed_at.is_(None))
            .where(or_(r.moved_to.is_(None), r.moved_to != given.moved_to))
            .values(moved_to=given.moved_to)
            .returning(r.id)
        )

    async def note(self, connection: AsyncConnection, moves: Mapping[str, str]) -> None:
        """Not a move between states: write the new GUID into open reconnections of these members (given by the old GUID)."""
        if moves:
            given = [{"member_guid": old, "moved_to": new} for old, new in sorted(moves.items())]
            moved = (await connection.execute(self._note, {"given": self._rows.encode(given)})).scalars()
            record_about(connection, EventType.MOVED, sorted(moved))
