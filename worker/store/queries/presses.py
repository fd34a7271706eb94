"""How links were used recently: on how many the button was pressed, which clicks failed, and how soon users came back."""

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

#: Outcomes with which the user was led to the bank, or was told that it is connected.
_WENT_WELL = frozenset({"window", "stored_window", "back_already", "reconnected"})
_UNDER_WAY = "under_way"
#: If there are more clicks, the number of links is estimated from the newest ones.
NEWEST = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Presses:
    """The clicks within a span of time. Presses by mail scanners are included."""

    days: int
    #: Links whose button was pressed; an estimate if there were more than 20,000 clicks.
    links_opened: int
    clicks: int
    #: How often each outcome occurred.
    outcomes: Mapping[str, int] = field(default_factory=dict)
    #: The median of seconds from the last press to the return; ``None`` if no return followed a press.
    median_seconds_to_return: float | None = None

    @property
    def failed(self) -> dict[str, int]:
        """The outcomes with which a click failed, the most frequent first."""
        failed = {outcome: n for outcome, n in self.outcomes.items() if outcome not in _WENT_WELL | {_UNDER_WAY}}
        return dict(sorted(failed.items(), key=lambda each: (-each[1], each[0])))


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
            opened, sampled = (await connection.execute(links)).one()
            return Presses(
                days=within.days,
                # Links of several days cannot be added up. So with many clicks, the newest ones give the number of links per click.
                links_opened=opened if pressed <= sampled else round(opened * pressed / sampled),
                clicks=pressed,
                outcomes=outcomes,
                median_seconds_to_return=median_seconds(
                    (reconnection.clicked_at, reconnection.closed_at)
                    for reconnection in await newest_returns(connection, since)
                ),
            )

        return await self._database.transaction(work)
