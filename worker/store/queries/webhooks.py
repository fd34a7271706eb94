"""The results of MX's webhooks: in all, and for one member."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.sql.database import Database
from worker.store.sql.tables import hints, state_literal

h = hints.c

#: Rows are counted no further than this.
_MANY = 1000
#: `explain` shows the newest hints of a member.
_MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Webhooks:
    """The webhooks of the last two days."""

    last_received_at: datetime | None
    #: Hints whose member is still to be read, counted no further than 1,000, and since when the first of them is
    #: due. That may be in the future, for a retry.
    waiting: int
    waiting_since: datetime | None
    #: Hints without effect, by the reason: ``no_member``, ``not_readable``, ``http_422``, ``poison``.
    not_used: dict[str, int]

    @property
    def shown_waiting(self) -> str:
        return f"{_MANY} or more" if self.waiting >= _MANY else str(self.waiting)


@dataclass(frozen=True, kw_only=True)
class AboutMember:
    """A hint about a member, in words."""

    at: datetime
    text: str


class WebhookStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lately(self) -> Webhooks:
        """The counts over all webhooks. Each count reads an index of its rows."""
        states = (state_literal("due"), state_literal("leased"))
        counts = [
            select(func.count())
            .select_from(select(literal(1)).select_from(hints).where(h.state == state).limit(_MANY).subquery())
            .scalar_subquery()
            for state in states
        ]
        first = select(func.min(h.next_attempt_at)).where(h.state == states[0]).scalar_subquery()
        last = select(func.max(h.last_received_at)).scalar_subquery()
        unused = (
            select(h.outcome, func.sum(h.times))
            .where(h.state.in_((state_literal("failed"), state_literal("unused"))))
            .group_by(h.outcome)
            .order_by(h.outcome)
        )

        async def work(connection: AsyncConnection) -> Webhooks:
            row = (await connection.execute(select(*counts, first.label("since"), last.label("last")))).one()
            return Webhooks(
                last_received_at=row.last,
                waiting=min(row[0] + row[1], _MANY),
                waiting_since=row.since,
                not_used={str(word): int(count) for word, count in await connection.execute(unused)},
            )

        return await self._database.transaction(work)

    async def of_member(self, member_guid: str) -> list[AboutMember]:
        """The newest hints about a member, in order of their arrival."""
        query = (
            select(h.kind, h.action, h.connection_status, h.last_received_at, h.times, h.state, h.outcome, h.read_at)
            .where(h.member_guid == member_guid)
            .order_by(h.last_received_at.desc())
            .limit(_MOST_SHOWN)
        )

        async def work(connection: AsyncConnection) -> list[AboutMember]:
            rows = (await connection.execute(query)).all()
            return [AboutMember(at=row.last_received_at, text=_in_words(row)) for row in reversed(rows)]

        return await self._database.transaction(work)


def _in_words(row: Any) -> str:
    """``CONNECTION_STATUS DENIED, 2 times: read at 10:02:07 UTC, MX said CONNECTED``."""
    kind, action, status, _, times, state, outcome, read_at = row
    text = " ".join(word for word in (kind, status or action) if word)
    text += f", {times} times" if times > 1 else ""
    if state == "done" and read_at is not None:
        return f"{text}: read at {read_at:%H:%M:%S} UTC, MX said {outcome}"
    waits = {"due": "the member is to be read", "leased": "the member is being read"}.get(state, state)
    return f"{text}: {waits}" + (f" ({outcome})" if outcome else "")
