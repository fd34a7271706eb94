"""What is paused, since when and why: by hand (`reconnect pause`) or because the breaker opened.

A row exists only while something is paused. Claims skip what a row covers. So a pause holds for all workers at once, and also after they
restart. The breaker's rows have ``probe_at``: from then on one worker may try a single row.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, exists, func, literal, or_, select, update

from worker.policy.events import EventType
from worker.store.events.recording import record_about
from worker.store.notifications.transitions import forget_refusals
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import pauses

#: Everything, by hand.
EVERYTHING = "everything"
#: Requests to MX, by the breaker.
MX = "mx"
#: Events to the application, by the breaker.
EVENTS = "events"


def holds_institution(code: ColumnElement[str | None]) -> ColumnElement[bool]:
    """Whether the institution in this column is paused, by hand or for its outage.

    The ``IN`` over all pauses does not depend on the row. The database reads the few pauses once for a statement and looks up each row's
    institution among them. ``NOT EXISTS`` would be a join, and PostgreSQL would choose another plan for it.
    """
    paused = select(pauses.c.scope)
    return or_(*((literal(prefix) + func.coalesce(code, "")).in_(paused) for prefix in ("institution:", "outage:")))


def any_paused(*scopes: str) -> ColumnElement[bool]:
    """Whether one of these scopes is paused."""
    return exists().where(pauses.c.scope.in_(scopes))


def holds_by_hand(code: ColumnElement[str | None]) -> ColumnElement[bool]:
    """Whether an operator paused everything, or the institution in this column."""
    return exists().where(pauses.c.scope.in_((literal(EVERYTHING), literal("institution:") + code)))


def holds_channel(kind: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether the channel in this column is paused, by hand or by the breaker, or everything is."""
    paused = select(pauses.c.scope)
    scopes = ((literal(prefix) + kind).in_(paused) for prefix in (channel_scope(""), delivery_scope("")))
    return or_(any_paused(EVERYTHING), *scopes)


def outage_scope(code: str) -> str:
    """The scope of one institution that is held for a burst of breaks."""
    return f"outage:{code}"


def channel_scope(kind: str) -> str:
    """The scope of one channel that is paused by hand."""
    return f"channel:{kind}"


def delivery_scope(kind: str) -> str:
    """The scope of one channel that the breaker pauses."""
    return f"delivery:{kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """One thing that is paused."""

    scope: str
    reason: str
    since: datetime
    probe_at: datetime | None

    @property
    def is_outage(self) -> bool:
        return self.scope.startswith(outage_scope(""))

    @property
    def by_hand(self) -> bool:
        return self.scope.startswith((EVERYTHING, "institution:", "channel:"))


async def put(
    connection: Any, rows: Rows, scope: str, reason: str, *, now: datetime, probe_after: timedelta | None
) -> bool:
    """Pause a scope, in the caller's transaction; returns whether it is new. See :meth:`PauseStore.set`."""
    probe_at = now + probe_after if probe_after is not None else None
    insert = rows.insert(pauses).values(scope=scope, reason=reason, since=now, probe_at=probe_at)
    inserted = (await connection.execute(insert.on_conflict_do_nothing().returning(pauses.c.scope))).first()
    if not inserted:
        statement = update(pauses).where(pauses.c.scope == scope).values(reason=reason, probe_at=probe_at)
        await connection.execute(statement)
    elif (code := _suffering(scope)) is not None:
        record_about(connection, EventType.OUTAGE_SUSPECTED, (code,))
    return bool(inserted)


def _suffering(scope: str) -> str | None:
    """The institution, if this is the scope of an outage."""
    return scope.removeprefix(outage_scope("")) if scope.startswith(outage_scope("")) else None


async def lift(connection: Any, scope: str) -> bool:
    """End a pause, in the caller's transaction; see :meth:`PauseStore.lift`."""
    channel = scope.removeprefix(delivery_scope(""))
    if channel != scope:
        await forget_refusals(connection, channel)
    lifted = bool((await connection.execute(delete(pauses).where(pauses.c.scope == scope))).rowcount)
    if lifted and (code := _suffering(scope)) is not None:
        record_about(connection, EventType.OUTAGE_OVER, (code,))
    return lifted


class PauseStore:
    """Sets, lifts and lists pauses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Pause]:
        """What is paused now."""

        async def work(connection: Any) -> list[Pause]:
            rows = await connection.execute(select(pauses).order_by(pauses.c.since, pauses.c.scope))
            return [Pause(scope=row.scope, reason=row.reason, since=row.since, probe_at=row.probe_at) for row in rows]

        return await self._database.transaction(work)

    async def get(self, scope: str) -> Pause | None:
        """The pause of this scope, if there is one."""
        return next((pause for pause in await self.all() if pause.scope == scope), None)

    async def set(self, scope: str, reason: str, *, now: datetime, probe_after: timedelta | None = None) -> bool:
        """Pause a scope; one that is paused already keeps its ``since``. Returns whether it is new."""

        async def work(connection: Any) -> bool:
            return await put(connection, self._database.rows, scope, reason, now=now, probe_after=probe_after)

        return await self._database.transaction(work)

    async def lift(self, scope: str) -> bool:
        """End a pause; returns whether there was one. For a channel's breaker the refusals that opened it are forgotten as well."""
        return await self._database.transaction(lambda connection: lift(connection, scope))

    async def take_probe(self, scope: str, *, now: datetime, again_after: timedelta) -> bool:
        """Take the right to one probe of a paused scope; only one worker gets it."""
        statement = (
            update(pauses)
            .where(pauses.c.scope == scope, pauses.c.probe_at <= bindparam("now", type_=Moment()))
            .values(probe_at=bindparam("again_at", type_=Moment()))
        )

        async def work(connection: Any) -> bool:
            return bool((await connection.execute(statement, {"now": now, "again_at": now + again_after})).rowcount)

        return await self._database.transaction(work)
