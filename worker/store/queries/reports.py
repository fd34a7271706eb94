"""What an operator asks: the funnel, the backlog, and the story of one member. No URI and no address is ever part of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import and_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.schedules import overdue_since
from worker.store.queries.sampling import up_to
from worker.store.reconnections.moving import older_row
from worker.store.selection import FACTS, facts_of
from worker.store.sql.application import is_set
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.scans import by_index
from worker.store.sql.tables import (
    clicks,
    devices,
    members,
    notification_reconnections,
    notifications,
    reconnections,
    state_literal,
    sweeps,
    users,
    windows,
)

r, n = reconnections.c, notifications.c


#: More than so many are not counted where it is asked whether there are any.
_MANY = 1000
#: By how much two processes may read the database's clock apart on a busy machine.
CLOCKS_DIFFER = timedelta(seconds=5)
#: What waits for a channel is examined again within this.
_SOON = timedelta(hours=2)
#: `explain` tells the newest presses of a reconnection's button.
_MOST_CLICKS = 20


@dataclass(frozen=True)
class OverdueSweeps:
    """Sweeps should have run and did not: whatever the cause, nothing new is found and nobody new is told."""

    #: When the last sweep began; ``None`` if there never was one.
    last: datetime | None
    #: The slot from which on they are overdue.
    since: datetime

    @property
    def text(self) -> str:
        """What it is and what to do, in one line."""
        last = f"the last began {self.last:%Y-%m-%d %H:%M} UTC" if self.last else "there never was one"
        return (
            f"sweeps are overdue since {self.since:%Y-%m-%d %H:%M} UTC ({last}): see that beat or cron runs and that a worker "
            "takes the queue `sweep`; `reconnect sweep` does one now"
        )


class ReportStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def in_hand(self, since: datetime, now: datetime) -> dict[str, int]:
        """What is still on its way of what was due at ``since``; what failed and waits for a retry is not. Each is counted by its own index.

        A message that fetch has just made due may be due a moment from now by the clock of this process.
        """
        soon = literal(now + CLOCKS_DIFFER, Moment())
        due = and_(r.state == state_literal("due"), r.next_attempt_at <= literal(since, Moment()))
        to_tell = and_(n.state == state_literal("pending"), n.next_attempt_at <= soon, n.attempts == 0)
        leased, sending = r.state == state_literal("leased"), n.state == state_literal("sending")

        async def work(connection: AsyncConnection) -> dict[str, int]:
            await by_index(connection, self._database.rows)
            counts = [
                await connection.scalar(select(func.count()).select_from(table).where(condition)) or 0
                for table, condition in (
                    (reconnections, due),
                    (reconnections, leased),
                    (notifications, to_tell),
                    (notifications, sending),
                )
            ]
            return {"to_fetch": int(counts[0] + counts[1]), "to_deliver": int(counts[2] + counts[3])}

        return await self._database.transaction(work)

    async def newest_uri(self) -> str | None:
        """The URI of a live window, encrypted, to see whether the keys open it: of the newest reconnection that has one."""
        w = windows.c
        live = and_(w.superseded_at.is_(None), w.epoch.is_not(None))
        # Among all windows the newest with a URI may be far: none has one once it is superseded.
        query = select(w.uri).where(live, w.uri.is_not(None)).order_by(w.reconnection_id.desc()).limit(1)

        async def work(connection: AsyncConnection) -> str | None:
            stored: str | None = await connection.scalar(query)
            return stored

        return await self._database.transaction(work)

    async def states(self) -> dict[str, str]:
        """The state of each member's newest reconnection."""
        newest = select(func.max(r.id)).group_by(r.member_guid)

        async def work(connection: AsyncConnection) -> dict[str, str]:
            rows = await connection.execute(select(r.member_guid, r.state).where(r.id.in_(newest)))
            return {row[0]: row[1] for row in rows}

        return await self._database.transaction(work)

    async def last_sweep(self) -> dict[str, Any] | None:
        """The newest sweep."""

        async def work(connection: AsyncConnection) -> dict[str, Any] | None:
            row = (await connection.execute(select(sweeps).order_by(sweeps.c.id.desc()).limit(1))).mappings().first()
            return dict(row) if row else None

        return await self._database.transaction(work)

    async def overdue_sweeps(self, schedule: str, *, expected_for: timedelta | None = None) -> OverdueSweeps | None:
        """Whether sweeps are overdue by ``SWEEP_SCHEDULE``, by the database's clock.

        ``expected_for``: how long sweeps have been expected where there never was one; unset, that is no error.
        """

        async def work(connection: AsyncConnection) -> tuple[datetime, datetime | None]:
            now: datetime = (await connection.execute(select(database_now()))).scalar_one()
            # A sweep of the future was put on record while the database's clock stood ahead: it says nothing.
            past = sweeps.c.started_at <= literal(now + timedelta(minutes=1), Moment())
            began: datetime | None = await connection.scalar(
                select(sweeps.c.started_at).where(past).order_by(sweeps.c.id.desc()).limit(1)
            )
            return now, began

        now, began = await self._database.transaction(work)
        last = began or (now - expected_for if expected_for is not None else None)
        since = overdue_since(schedule, last, now) if last else None
        return OverdueSweeps(last=began, since=since) if since else None

    async def has_members(self) -> bool:
        """Whether there is anybody to sweep."""

        async def work(connection: AsyncConnection) -> bool:
            return await connection.scalar(select(members.c.member_guid).limit(1)) is not None

        return await self._database.transaction(work)

    async def waiting_to_be_told(self) -> str:
        """How many reconnections and notifications wait for nothing but a way to tell somebody: ``""`` for none, ``1000+`` for many."""

        async def work(connection: AsyncConnection) -> int:
            await by_index(connection, self._database.rows)
            # As a value: what the database computes anew for each row no index can look up.
            now: datetime = (await connection.execute(select(database_now()))).scalar_one()
            moment, soon = literal(now, Moment()), literal(now + _SOON, Moment())
            due = (r.state == state_literal("due"), r.next_attempt_at <= moment)
            # They are examined every hour, so they are among those that are due soon.
            unreachable = r.outcome == literal("channel_not_configured")
            later = (
                r.state == state_literal("due"),
                r.next_attempt_at > moment,
                r.next_attempt_at <= soon,
                unreachable,
            )
            pending = (n.state == state_literal("pending"), n.next_attempt_at <= moment)
            return sum(
                [
                    await up_to(connection, reconnections, *due, most=_MANY),
                    await up_to(connection, reconnections, *later, most=_MANY),
                    await up_to(connection, notifications, *pending, most=_MANY),
                ]
            )

        found = await self._database.transaction(work)
        return f"{_MANY}+" if found > _MANY else str(found or "")

    async def member(self, guid: str) -> dict[str, Any] | None:
        """Everything on record about a member."""

        async def work(connection: AsyncConnection) -> dict[str, Any] | None:
            columns = (members.c.user_guid, members.c.institution_code, members.c.institution_name)
            ours = (is_set(members.c.muted_at), members.c.consent_from, older_row())
            of_member = select(*columns, *ours, *FACTS)
            row = (await connection.execute(of_member.where(members.c.member_guid == guid))).first()
            history = await connection.execute(
                select(reconnections).where(r.member_guid == guid).order_by(r.id.desc()).limit(20)
            )
            found = [dict(reconnection) for reconnection in history.mappings()]
            if row is None and not found:
                return None
            user_guid = row.user_guid if row else found[0]["user_guid"]
            user = (await connection.execute(select(users).where(users.c.user_guid == user_guid))).mappings().first()
            alive = and_(devices.c.user_guid == user_guid, ~is_set(devices.c.disabled_at))
            kinds = await connection.scalars(select(devices.c.device_kind).where(alive))
            for reconnection in found:
                await self._add_history(connection, reconnection)
            return {
                "member": _member(guid, row) if row else None,
                "user": dict(user) if user else None,
                "devices": sorted(kind for kind in kinds if kind is not None),
                "reconnections": found,
            }

        return await self._database.transaction(work)

    async def _add_history(self, connection: AsyncConnection, reconnection: dict[str, Any]) -> None:
        minted = await connection.execute(
            select(windows.c.fetched_at, windows.c.superseded_at)
            # Those of clicks are told by the clicks.
            .where(windows.c.reconnection_id == reconnection["id"], windows.c.epoch.is_not(None))
            .order_by(windows.c.id)
        )
        of_clicks = (clicks.c.clicked_at, clicks.c.outcome, clicks.c.answered_at)
        pressed = await connection.execute(
            select(*of_clicks)
            .where(clicks.c.reconnection_id == reconnection["id"])
            .order_by(clicks.c.id.desc())
            .limit(_MOST_CLICKS)
        )
        link = notification_reconnections.c
        told = await connection.execute(
            select(
                n.channel,
                link.step,
                n.state,
                n.created_at,
                n.sent_at,
                n.outcome,
                n.next_attempt_at,
                n.attempts,
                n.lease_worker,
                n.lease_expires_at,
                n.dispatched_at,
            )
            .join(notification_reconnections, link.notification_id == n.id)
            .where(link.reconnection_id == reconnection["id"])
            .order_by(n.id)
        )
        reconnection["clicks"] = [dict(row) for row in pressed.mappings()][::-1]
        reconnection["windows"] = [dict(row) for row in minted.mappings()]
        reconnection["notifications"] = [dict(row) for row in told.mappings()]


def _member(guid: str, row: Any) -> dict[str, Any]:
    user_guid, code, name, muted, consent_from, older, *facts = row
    known = {
        "member_guid": guid,
        "user_guid": user_guid,
        "institution_code": code,
        "institution_name": name,
        "muted": bool(muted),
        "consent_from": consent_from,
        "older_row": older,
    }
    return known | msgspec.structs.asdict(facts_of(facts))
