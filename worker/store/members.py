"""What this worker itself writes into ``members``: that one is well again."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Text, bindparam, case, null, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.application import unreadable
from worker.store.moments import Moment, has_passed
from worker.store.rows import Rows
from worker.store.tables import members

m = members.c


async def mark_well(connection: AsyncConnection, rows: Rows, guids: Collection[str], *, now: datetime) -> None:
    """MX says that these are connected: what spoke of the old token goes, so that no sweep picks them up for it again."""
    if not guids:
        return
    given = rows.table("given", {"member_guid": Text()})
    moment = bindparam("now", type_=Moment())
    statement = (
        update(members)
        .where(m.member_guid == given.c.member_guid)
        .values(
            connection_status="CONNECTED",
            error_code=None,
            # What is no moment stays for the application to mend; `doctor` names it.
            token_revoked_at=case((unreadable(m.token_revoked_at), m.token_revoked_at), else_=null()),
            token_expires_at=case((has_passed(m.token_expires_at, moment), null()), else_=m.token_expires_at),
        )
    )
    await connection.execute(
        statement, {"given": rows.encode({"member_guid": guid} for guid in sorted(guids)), "now": now}
    )
