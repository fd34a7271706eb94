"""What a preview shows: what one user would be told about now. Reads, never writes."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.selection import MemberFacts
from worker.policy.states import LIVE, OPEN, ReconnectionState
from worker.store.selection import FACTS, facts_of
from worker.store.sql.application import is_set
from worker.store.sql.database import Database
from worker.store.sql.tables import (
    members,
    notification_reconnections,
    notifications,
    reconnections,
    state_literal,
    users,
    windows,
)

m, n, r, w, link = members.c, notifications.c, reconnections.c, windows.c, notification_reconnections.c


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenReconnection:
    """An open reconnection."""

    #: The pending notification about it, if there is one.
    notification_id: int | None
    institution_name: str | None
    institution_code: str | None
    reason: str
    broken_since: datetime
    step: int
    base_step: int
    first_notified_at: datetime | None
    next_attempt_at: datetime | None
    #: The newest window, encrypted.
    encrypted_uri: str | None
    fetched_at: datetime | None
    #: Whether the user asked for no messages about it.
    muted: bool

    def __repr__(self) -> str:
        return f"OpenReconnection({self.step})"


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownMember:
    """A member of the user, whether or not it is broken."""

    institution_name: str | None
    institution_code: str | None
    facts: MemberFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """The message that waits to be delivered, or is being delivered."""

    id: int
    channel: str
    message_key: str
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """All stored data from which a message to one user is made."""

    pending: Pending | None
    open_reconnections: tuple[OpenReconnection, ...]
    members: tuple[KnownMember, ...]


class PreviewStore:
    """Loads a :class:`Picture`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def picture(self, user_guid: str) -> Picture | None:
        """What is stored about a user; ``None``: nothing is."""

        async def work(connection: AsyncConnection) -> Picture | None:
            member_rows = (await connection.execute(_members(user_guid))).all()
            waiting = (await connection.execute(_pending(user_guid))).first()
            open_reconnections = (
                await connection.execute(_open_reconnections(user_guid, waiting.id if waiting else None))
            ).all()
            known_guid = await connection.scalar(select(users.c.user_guid).where(users.c.user_guid == user_guid))
            if known_guid is None and not member_rows and not open_reconnections:
                return None
            return Picture(
                pending=Pending(**waiting._mapping) if waiting else None,  # noqa: SLF001 - SQLAlchemy's public name for it
                open_reconnections=tuple(OpenReconnection(**row._mapping) for row in open_reconnections),  # noqa: SLF001
                members=tuple(_member(row) for row in member_rows),
            )

        return await self._database.transaction(work)


def _pending(user_guid: str) -> Any:
    return select(n.id, n.channel, n.message_key, n.step).where(
        n.user_guid == user_guid, n.state.in_([state_literal(state) for state in LIVE])
    )


def _open_reconnections(user_guid: str, notification_id: int | None) -> Any:
    """In the order in which a message names them. Those of the pending message carry its id while they wait for it."""
    waits = (
        (link.reconnection_id == r.id)
        & (link.notification_id == notification_id)
        & (r.state == state_literal(ReconnectionState.READY))
    )
    return (
        select(
            link.notification_id,
            m.institution_name,
            r.institution_code,
            r.reason,
            r.broken_since,
            r.step,
            r.base_step,
            r.first_notified_at,
            r.next_attempt_at,
            w.uri.label("encrypted_uri"),
            w.fetched_at,
            is_set(m.muted_at).label("muted"),
        )
        .select_from(reconnections)
        .outerjoin(notification_reconnections, waits)
        .outerjoin(windows, (w.reconnection_id == r.id) & w.superseded_at.is_(None) & w.epoch.is_not(None))
        .outerjoin(members, m.member_guid == r.member_guid)
        .where(r.user_guid == user_guid, r.closed_at.is_(None), r.state.in_([state_literal(state) for state in OPEN]))
        .order_by(r.broken_since, r.id)
    )


def _members(user_guid: str) -> Any:
    columns = (m.institution_name, m.institution_code, *FACTS)
    return select(*columns).where(m.user_guid == user_guid).order_by(m.member_guid)


def _member(row: Any) -> KnownMember:
    name, code, *facts = row
    return KnownMember(institution_name=name, institution_code=code, facts=facts_of(facts))
