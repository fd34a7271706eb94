"""What one user has to reconnect now, for a banner in the company's app."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import String, bindparam, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.links import BankState, state_of_bank
from worker.store.links import Links, NewLink
from worker.store.sql.application import is_set
from worker.store.sql.database import Database
from worker.store.sql.moments import database_now
from worker.store.sql.tables import members, reconnections, users

m, r, u = members.c, reconnections.c, users.c
_USER = bindparam("user_guid", type_=String())
#: At most so many are listed; hardly any user has more.
_MOST = 100


class BrokenBank(msgspec.Struct, frozen=True, kw_only=True):
    """An open reconnection."""

    member_guid: str
    institution_code: str | None
    #: As the application wrote it in ``members``.
    institution_name: str | None
    #: Since when it is broken; for a notice, when it expires.
    since: datetime
    state: BankState
    #: Whether the user asked for no messages about it.
    muted: bool


class ToReconnectStore:
    """Reads, and stores the link that the answer carries."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._links = database.rows.part(Links)

    async def read(self, user_guid: str, *, link: NewLink) -> Sequence[BrokenBank] | None:
        """The user's open reconnections, the longest broken first; ``None`` if ``users`` has no row for the user.

        If anything is open, ``link`` is stored with the answer, unless it is stored already.
        """

        async def work(connection: AsyncConnection) -> Sequence[BrokenBank] | None:
            parameters = {"user_guid": user_guid}
            banks = [_bank(row) for row in await connection.execute(_OPEN, parameters)]
            if banks:
                await self._links.store_once(connection, link)
            return banks if banks or await connection.scalar(_KNOWN, parameters) else None

        return await self._database.transaction(work)


def _bank(row: Any) -> BrokenBank:
    return BrokenBank(
        member_guid=row.member_guid,
        institution_code=row.institution_code,
        institution_name=row.institution_name,
        since=row.broken_since,
        state=state_of_bank(row.state, reason=row.reason, since=row.broken_since, now=row.now),
        muted=bool(row.muted),
    )


_OPEN: Any = (
    select(
        r.member_guid,
        r.institution_code,
        m.institution_name,
        r.broken_since,
        r.state,
        r.reason,
        is_set(m.muted_at).label("muted"),
        database_now().label("now"),
    )
    .outerjoin(members, m.member_guid == r.member_guid)
    .where(r.user_guid == _USER, r.closed_at.is_(None))
    .order_by(r.broken_since, r.id)
    .limit(_MOST)
)
_KNOWN: Any = select(or_(exists().where(u.user_guid == _USER), exists().where(m.user_guid == _USER)))
