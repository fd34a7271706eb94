"""Reports for operators: backlog, overdue sweeps, and the history of one member. They hold no address and no URI in clear text."""

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


#: Rows are counted no further than this if the question is whether there are any.
_MANY = 1000
#: How far apart two processes may read the database's clock on a busy machine.
CLOCKS_DIFFER = timedelta(seconds=5)
#: A reconnection that waits for a channel is due again within this time.
_SOON = timedelta(hours=2)
#: `explain` shows so many of the newest clicks of a reconnection.
_MOST_CLICKS = 20


@dataclass(frozen=True)
class OverdueSweeps:
    """Sweeps are overdue: until one runs, no new break is found and no further user is told."""

    #: When the last sweep began; ``None`` if there never was one.
    last: datetime | None
    #: The first slot that was missed.
    since: datetime

    @property
    def text(self) -> str:
        """The problem and what to do, in one line."""
        last = f"the last began {self.last:%Y-%m-%d %H:%M} UTC" if self.last else "there never was one"
        return (
            f"sweeps are overdue since {self.since:%Y-%m-%d %H:%M} UTC ({last}): see that beat or cron runs and that a worker "
            "takes the queue `sweep`; `reconnect sweep` does one now"
        )


class ReportStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def remaining_work(self, since: datetime, now: datetime) -> dict[str, int]:
        """How much work that was due at ``since`` is still to be done, without retries. Each kind is counted by its own index.

        A message that fetch has just queued may be due slightly in the future by this process's clock.
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
        """The encrypted URI of a live window, to test the keys: of the newest reconnection that has one."""
        w = windows.c
        live = and_(w.superseded_at.is_(None), w.epoch.is_not(None))
        # Superseded windows have no URI. So an index over all windows might have to pass many of them.
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

        ``expected_for``: how long sweeps have been expected if there never was one; ``None``: then they are not overdue.
        """

        async def work(connection: AsyncConnection) -> tuple[datetime, datetime | None]:
            now: datetime = (await connection.execute(select(database_now()))).scalar_one()
            # A sweep with a future moment was stored while the database's clock was ahead. It is ignored.
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
        """Whether there are any members."""

        async def work(connection: AsyncConnection) -> bool:
            return await connection.scalar(select(members.c.member_guid).limit(1)) is not None

        return await self._database.transaction(work)

    async def waiting_to_be_told(self) -> str:
        """How many reconnections and notifications are due, or wait for a channel to be configured: ``""`` for none, ``1000+`` for many."""

        async def work(connection: AsyncConnection) -> int:
            await by_index(connection, self._database.rows)
            # Read first and passed as a value: an index cannot be used for an expression that is computed for each row.
            now: datetime = (await connection.execute(select(database_now()))).scalar_one()
            moment, soon = literal(now, Moment()), literal(now + _SOON, Moment())
            due = (r.state == state_literal("due"), r.next_attempt_at <= moment)
            # These are due again every hour, so they are among the rows that are due soon.
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

        count = await self._database.transaction(work)
        return f"{_MANY}+" if count > _MANY else str(count or "")

    async def member(self, guid: str) -> dict[str, Any] | None:
        """Everything that is stored about a member."""

        async def work(connection: AsyncConnection) -> dict[str, Any] | None:
            columns = (members.c.user_guid, members.c.institution_code, members.c.institution_name)
            our_columns = (is_set(members.c.muted_at), members.c.consent_from, older_row())
            of_member = select(*columns, *our_columns, *FACTS)
            row = (await connection.execute(of_member.where(members.c.member_guid == guid))).first()
            history = await connection.execute(
                select(reconnections).where(r.member_guid == guid).order_by(r.id.desc()).limit(20)
            )
            reconnection_rows = [dict(reconnection) for reconnection in history.mappings()]
            if row is None and not reconnection_rows:
                return None
            user_guid = row.user_guid if row else reconnection_rows[0]["user_guid"]
            user = (await connection.execute(select(users).where(users.c.user_guid == user_guid))).mappings().first()
            alive = and_(devices.c.user_guid == user_guid, ~is_set(devices.c.disabled_at))
            kinds = await connection.scalars(select(devices.c.device_kind).where(alive))
            for reconnection in reconnection_rows:
                await self._add_history(connection, reconnection)
            return {
                "member": _member(guid, row) if row else None,
                "user": dict(user) if user else None,
                "devices": sorted(kind for kind in kinds if kind is not None),
                "reconnections": reconnection_rows,
            }

        return await self._database.transaction(work)

    async def _add_history(self, connection: AsyncConnection, reconnection: dict[str, Any]) -> None:
        minted = await connection.execute(
            select(windows.c.fetched_at, windows.c.superseded_at)
            # Windows of clicks are shown with the clicks.
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
        messages = await connection.execute(
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
        reconnection["notifications"] = [dict(row) for row in messages.mappings()]


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
