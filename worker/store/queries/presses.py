"""How links were used of late: how many were opened by their button, which clicks failed, and how soon a return followed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import and_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.queries.returns import SPAN, median_until_closed
from worker.store.reconnections.notices import IS_NOTICE
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.tables import clicks, reconnections, written

c, r = clicks.c, reconnections.c

#: The user got what they clicked for: a way to the bank, or the word that it is connected.
_WENT_WELL = frozenset({"window", "stored_window", "back_already", "reconnected"})
_UNDER_WAY = "under_way"


@dataclass(frozen=True, kw_only=True, slots=True)
class Presses:
    """The clicks within so many days. Mail scanners press buttons too, and are among them."""

    days: int
    #: Links whose button was pressed.
    links_opened: int
    clicks: int
    #: How often each outcome occurred.
    outcomes: Mapping[str, int] = field(default_factory=dict)
    #: Seconds from the last press to the return, of the one in the middle; ``None`` where nobody came back after one.
    median_seconds_to_return: float | None = None

    @property
    def failed(self) -> dict[str, int]:
        """The outcomes that led nobody to a bank, the most frequent first."""
        found = {word: n for word, n in self.outcomes.items() if word not in _WENT_WELL | {_UNDER_WAY}}
        return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


class PressStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lately(self, now: datetime, *, within: timedelta = SPAN) -> Presses:
        """The clicks within this time before ``now``."""
        since = literal(now - within, Moment())
        totals = select(func.count(c.link_id.distinct()), func.count()).where(c.clicked_at > since)
        outcomes = (
            select(func.coalesce(c.outcome, _UNDER_WAY), func.count()).where(c.clicked_at > since).group_by(c.outcome)
        )
        returned = and_(r.state == written("reconnected"), r.closed_at > since, ~IS_NOTICE, r.clicked_at <= r.closed_at)

        async def work(connection: AsyncConnection) -> Presses:
            opened, pressed = (await connection.execute(totals)).one()
            return Presses(
                days=within.days,
                links_opened=opened,
                clicks=pressed,
                outcomes={row[0]: row[1] for row in await connection.execute(outcomes)},
                median_seconds_to_return=await connection.scalar(median_until_closed(r.clicked_at, returned)),
            )

        return await self._database.transaction(work)
