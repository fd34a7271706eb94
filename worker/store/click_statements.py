"""The statements of a click that are about several tables, each of them in one round trip: a user waits for every one."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.links import MINTS_WITHIN
from worker.policy.moments import FIRST
from worker.policy.recovery import AFTER_CLICK
from worker.policy.states import ReconnectionState
from worker.store.clicks import finishing, nth_mint
from worker.store.pauses import holds_by_hand
from worker.store.reconnections.clicked import Standing, noting, serving
from worker.store.sql.prompt import Prompt
from worker.store.sql.rows import Rows
from worker.store.sql.tables import reconnections
from worker.store.windows import may_be_handed_out, storing_clicked

r = reconnections.c


class Found(Standing, frozen=True, kw_only=True):
    """Where a reconnection stands that a user pressed the button of, and what stands in the way of a window, or may serve as one."""

    #: An operator paused everything, or its institution.
    is_paused: bool
    #: There may be a stored window for it.
    may_have_window: bool
    #: Until when MX is asked for no more windows for the link; ``None``: it may be asked now.
    no_mint_before: datetime | None


class ClickStatements:
    """Those statements, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._note = Prompt(
            rows,
            noting().returning(
                r.state,
                r.closed_at,
                holds_by_hand(r.institution_code).label("is_paused"),
                may_be_handed_out(r.id).label("may_have_window"),
                nth_mint().label("nth_mint"),
            ),
        )
        if not rows.is_sqlite:
            self._serve = Prompt(rows, _serve_at_once(rows))

    async def note(
        self,
        connection: AsyncConnection,
        reconnection_id: int,
        link_id: int,
        now: datetime,
        *,
        max_age: timedelta | None,
    ) -> Found:
        """A user pressed the button: its member is checked soon. Locks the reconnection; the link must be locked."""
        given = {
            "of": reconnection_id,
            "of_link": link_id,
            "now": now,
            "soon": now + AFTER_CLICK[0],
            "since": now - MINTS_WITHIN,
            "fetched_after": FIRST if max_age is None else now - max_age,
        }
        row = await self._note.first(connection, given)
        return Found(
            state=ReconnectionState(row.state),
            is_open=row.closed_at is None,
            is_paused=bool(row.is_paused),
            may_have_window=bool(row.may_have_window),
            no_mint_before=None if row.nth_mint is None else row.nth_mint + MINTS_WITHIN,
        )

    async def serve(
        self, connection: AsyncConnection, given: Mapping[str, Any]
    ) -> tuple[str, ReconnectionState] | None:
        """All that a served click writes, in one statement that may stand alone: the URI stored, and the reconnection's state.

        ``None``: the reconnection is over, or the click has a window already; then it has to be written step by step, and what was
        done here is done once more, with the same result. SQLite cannot do this.
        """
        row = await self._serve.first(connection, given)
        return None if row is None else (row.uri, ReconnectionState(row.state))


def _serve_at_once(rows: Rows) -> Any:
    """The reconnection first, then its window, then the click: rows are locked in this order."""
    served = serving().returning(r.id, r.state).cte("served")
    stored = storing_clicked(rows, of=served.c.id).cte("stored")
    finished = finishing().where(select(stored.c.uri).exists()).cte("finished")
    return select(served.c.state, stored.c.uri).select_from(served.join(stored, true())).add_cte(finished)
