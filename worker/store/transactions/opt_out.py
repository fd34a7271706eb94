"""Unsubscribing by a link: the user and members that it is about, and muting and unmuting a member."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, String, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.members import MUTED, mute, unmute
from worker.store.reconnections.transitions import Transitions
from worker.store.sql.application import is_set
from worker.store.sql.database import Database
from worker.store.sql.tables import links, members, notification_reconnections, reconnections, users

k, m, r, u, item = links.c, members.c, reconnections.c, users.c, notification_reconnections.c
_USER = bindparam("user_guid", type_=String())


class Subscriber(msgspec.Struct, frozen=True, kw_only=True):
    """The user of a link."""

    user_guid: str
    #: The message that carries the link, if one does.
    notification_id: int | None
    locale: str | None
    opted_out: bool


class SubscribedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A member that its user may mute."""

    member_guid: str
    name: str
    muted: bool


class SubscriptionStore:
    """Finds a link by the hash of its token, even if it expired."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transitions = database.rows.part(Transitions)

    async def read(self, token_hash: str) -> tuple[Subscriber, list[SubscribedMember]] | None:
        """The user of the link, and its members: those of its message, else those with an open reconnection."""

        async def work(connection: AsyncConnection) -> tuple[Subscriber, list[SubscribedMember]] | None:
            row = (await connection.execute(_SUBSCRIBER, {"token_hash": token_hash})).first()
            if row is None:
                return None
            subscriber = Subscriber(
                user_guid=row.user_guid,
                notification_id=row.notification_id,
                locale=row.locale,
                opted_out=bool(row.opted_out),
            )
            parameters = {"user_guid": row.user_guid, "notification_id": row.notification_id}
            statement = _OF_USER if row.notification_id is None else _OF_MESSAGE
            subscribed_members = [
                SubscribedMember(member_guid=guid, name=name or code or "", muted=bool(muted))
                for guid, name, code, muted in await connection.execute(statement, parameters)
            ]
            return subscriber, subscribed_members

        return await self._database.transaction(work)

    async def mute(self, member_guid: str, *, now: datetime) -> None:
        """Send no more messages about this member."""
        await self._database.transaction(lambda connection: mute(connection, member_guid, now))

    async def unmute(self, member_guid: str, *, now: datetime) -> None:
        """Send messages about this member again: a reconnection that was deferred because of the mute is due at once."""

        async def work(connection: AsyncConnection) -> None:
            await unmute(connection, member_guid)
            await self._transitions.no_longer_deferred(connection, member_guid, MUTED, now)

        await self._database.transaction(work)


_SUBSCRIBER: Any = (
    select(k.user_guid, k.notification_id, u.locale, is_set(u.opted_out_at).label("opted_out"))
    .outerjoin(users, u.user_guid == k.user_guid)
    .where(k.token_hash == bindparam("token_hash", type_=String()))
)


def _members(*conditions: Any) -> Any:
    return (
        select(m.member_guid, m.institution_name, m.institution_code, is_set(m.muted_at))
        .where(m.user_guid == _USER, *conditions)
        .order_by(m.institution_name, m.member_guid)
    )


_OF_MESSAGE: Any = _members(
    m.member_guid.in_(
        select(r.member_guid)
        .join(notification_reconnections, item.reconnection_id == r.id)
        .where(item.notification_id == bindparam("notification_id", type_=BigInteger()), r.user_guid == _USER)
    )
)
_OF_USER: Any = _members(m.member_guid.in_(select(r.member_guid).where(r.user_guid == _USER, r.closed_at.is_(None))))
