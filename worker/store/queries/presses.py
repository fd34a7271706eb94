"""How links were used of late: how many were opened by their button, which clicks failed, and how soon a return followed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.store.queries.returns import SPAN, median_seconds, newest_returns
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.scans import by_index
from worker.store.sql.tables import clicks
from worker.store.totals import CLICKED, Totals

c = clicks.c

#: The user got what they clicked for: a way to the bank, or the word that it is connected.
_WENT_WELL = frozenset({"window", "stored_window", "back_already", "reconnected"})
_UNDER_WAY = "under_way"
#: Of more clicks the number of links is estimated from the newest.
NEWEST = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Presses:
    """The clicks within so many days. Mail scanners press buttons too, and are among them."""

    days: int
    #: Links whose button was pressed; an estimate where there were more than 20,000 clicks.
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
        self._totals = database.rows.part(Totals)

    async def lately(self, now: datetime, *, within: timedelta = SPAN) -> Presses:
        """The clicks within this time before ``now``."""
        since = now - within
        lately = c.clicked_at > literal(since, Moment())
        newest = select(c.link_id).where(lately).order_by(c.clicked_at.desc()).limit(NEWEST).subquery()
        links = select(func.count(newest.c.link_id.distinct()), func.count())

        async def work(connection: AsyncConnection) -> Presses:
            await by_index(connection, self._database.rows)
            outcomes = {
                total.outcome: total.count for total in await self._totals.sums(connection, CLICKED, since=since)
            }
            pressed = sum(outcomes.values())
            opened, seen = (await connection.execute(links)).one()
            return Presses(
                days=within.days,
                # Links cannot be added up from day to day: of many clicks the newest say how many there are to a link.
                links_opened=opened if pressed <= seen else round(opened * pressed / seen),
                clicks=pressed,
                outcomes=outcomes,
                median_seconds_to_return=median_seconds(
                    (back.clicked_at, back.closed_at) for back in await newest_returns(connection, since)
                ),
            )

        return await self._database.transaction(work)
