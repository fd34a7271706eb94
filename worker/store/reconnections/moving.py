"""A member that MX carries on under another GUID: its open reconnection remembers it, so that MX is asked for the new one."""

from collections.abc import Mapping

from sqlalchemy import Text, or_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.events import EventType
from worker.store.events.recording import record_about
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections

r = reconnections.c


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
        """No move between states: open reconnections of these members (by the old GUID) remember the new GUID."""
        if moves:
            given = [{"member_guid": old, "moved_to": new} for old, new in sorted(moves.items())]
            moved = (await connection.execute(self._note, {"given": self._rows.encode(given)})).scalars()
            record_about(connection, EventType.MOVED, sorted(moved))
