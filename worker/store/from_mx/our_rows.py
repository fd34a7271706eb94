"""Finds the rows of ``members`` that MX's answers are about.

Rows are found by the GUID that MX was asked for, by the GUID that it answered with, and by ``moved_to``. For an answer without a row, the
client's own id is tried, and then a reconnection that has the answer's GUID as the new one of its member.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Text, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.from_mx.answers import OUR_MEMBER, MxMember, OurMember
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections

m, r = members.c, reconnections.c


class OurRows:
    """Finds rows, in the transaction of the caller. Its SQL is built once for each database."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        guids = rows.table("given", {"guid": Text()})
        row = OUR_MEMBER
        self._by_guid = select(guids.c.guid.label("answered"), *row).join(guids, m.member_guid == guids.c.guid)
        # Two statements: an OR over two columns would read the whole table.
        moved = m.moved_to == guids.c.guid
        self._by_new_guid = (
            select(guids.c.guid.label("answered"), *row).join(guids, moved).where(m.moved_to.is_not(None))
        )
        self._moved_before = (
            select(r.moved_to, r.member_guid).join(guids, r.moved_to == guids.c.guid).where(r.moved_to.is_not(None))
        )

    async def about(self, connection: AsyncConnection, answers: Sequence[MxMember]) -> dict[str, list[OurMember]]:
        """The rows that each answer is about, by the answer's GUID."""
        rows_by_guid: dict[str, list[OurMember]] = {}
        seen: set[str] = set()

        async def read(statement: Any, guids: Iterable[str], names: dict[str, str] | None = None) -> None:
            given = self._rows.encode({"guid": guid} for guid in sorted(guids))
            for answered, *values in await connection.execute(statement, {"given": given}):
                row = OurMember(**dict(zip(OurMember.__struct_fields__, values, strict=True)))
                if row.member_guid not in seen:
                    seen.add(row.member_guid)
                    rows_by_guid.setdefault((names or {}).get(answered, answered), []).append(row)

        asked = {answer.asked_guid: answer.member_guid for answer in answers if answer.asked_guid is not None}
        guids = {answer.member_guid for answer in answers}
        await read(self._by_guid, asked, asked)
        await read(self._by_guid, guids)
        await read(self._by_new_guid, guids)
        if own_ids := {
            answer.own_id: answer.member_guid
            for answer in answers
            if answer.own_id is not None and answer.member_guid not in rows_by_guid
        }:
            await read(self._by_guid, own_ids, own_ids)
        if unknown := guids - rows_by_guid.keys():
            given = self._rows.encode({"guid": guid} for guid in sorted(unknown))
            old_guids = {old: new for new, old in await connection.execute(self._moved_before, {"given": given})}
            if old_guids:
                await read(self._by_guid, old_guids, old_guids)
        return rows_by_guid
