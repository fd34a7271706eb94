"""The owner of ``clicks``: each click on a link, and how it ended.

A press is one push of the button. Two presses from one load of the page within a minute are one click: they share the row, which is unique
by the hash of the page's nonce. A press that comes later, or after the first one failed, is a click of its own: the old row's nonce is
retired.
"""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, String, Text, bindparam, cast, exists, literal, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.links import DOUBLE_CLICK, MINTS
from worker.store.sql.fast_statements import FastStatement
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import clicks, windows

c = clicks.c


class Press(msgspec.Struct, frozen=True, kw_only=True):
    """The click that a press belongs to."""

    id: int
    #: When its first press came.
    clicked_at: datetime
    #: How the click ended; ``None``: it is under way, or its process died.
    outcome: str | None
    #: Whether this press is its first.
    is_new: bool


class Clicks:
    """The statements on ``clicks``; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        now = bindparam("now", type_=Moment())
        load = (
            c.link_id == bindparam("of_link", type_=BigInteger()),
            c.reconnection_id == bindparam("about", type_=BigInteger()),
            c.nonce_hash == bindparam("nonce", type_=String()),
        )
        has_uri = exists().where(windows.c.click_id == c.id, windows.c.uri.is_not(None))
        stale = c.clicked_at <= bindparam("double_after", type_=Moment())
        self._retire = (
            update(clicks)
            .where(*load, or_(stale, c.outcome.is_not(None) & ~has_uri))
            .values(nonce_hash=literal("retired ", Text()) + cast(c.id, Text()))
        )
        self._begin = FastStatement(
            rows,
            beginning(
                rows,
                select(bindparam("of_link", type_=BigInteger()), bindparam("about", type_=BigInteger()), now),
            ),
        )
        self._earlier = select(c.id, c.clicked_at, c.outcome).where(*load)
        the_click = c.id == bindparam("of_click", type_=BigInteger())
        self._outcome = select(c.outcome).where(the_click)
        self._finish = finishing()

    async def press(
        self, connection: AsyncConnection, link_id: int, reconnection_id: int, nonce_hash: str, now: datetime
    ) -> Press:
        """Record a press: a new click, or the double of one that is under way or was given a URI within the last minute.

        A new click is stored as a mint. :meth:`finish` corrects that if MX was not asked.

        The link's row must be locked, so that presses of one link come one after the other.
        """
        parameters = {"of_link": link_id, "about": reconnection_id, "nonce": nonce_hash}
        new = await self._begin.first(connection, parameters | {"now": now})
        if new is None:
            await connection.execute(self._retire, parameters | {"double_after": now - DOUBLE_CLICK})
            new = await self._begin.first(connection, parameters | {"now": now})
        if new is not None:
            return Press(id=new.id, clicked_at=now, outcome=None, is_new=True)
        row = (await connection.execute(self._earlier, parameters)).one()
        return Press(id=row.id, clicked_at=row.clicked_at, outcome=row.outcome, is_new=False)

    async def outcome_of(self, connection: AsyncConnection, click_id: int) -> str | None:
        """How a click ended; ``None``: it is under way, or its process died."""
        outcome: str | None = await connection.scalar(self._outcome, {"of_click": click_id})
        return outcome

    async def finish(
        self, connection: AsyncConnection, click_id: int, outcome: str, now: datetime, *, asked: bool = True
    ) -> None:
        """Write how a click ended, unless it has ended already. ``asked``: whether MX was asked for a window, so that it was a mint."""
        parameters = {"of_click": click_id, "ended": outcome[:64], "now": now, "asked": asked}
        await connection.execute(self._finish, parameters)


def beginning(rows: Rows, clicked: Any) -> Any:
    """Insert a click with the parameter ``nonce``, unless this load of the page has one; part of a statement.

    ``clicked``: a query of link, reconnection and moment. Returns the click's id.
    """
    click = clicked.subquery("clicked")
    # It is stored as a mint. Clicks.finish() corrects that if MX was not asked.
    values = select(*click.c, bindparam("nonce", type_=Text()), true()).where(
        true()
    )  # SQLite: ON CONFLICT after a WHERE alone
    columns = ["link_id", "reconnection_id", "clicked_at", "nonce_hash", "minted"]
    return rows.insert(clicks).from_select(columns, values).on_conflict_do_nothing().returning(c.id)


def finishing() -> Any:
    """Write how a click ended; part of a statement. Parameters ``of_click``, ``ended``, ``now``, ``asked``."""
    asked = bindparam("asked", type_=Boolean())
    return (
        update(clicks)
        .where(c.id == bindparam("of_click", type_=BigInteger()), c.outcome.is_(None))
        .values(outcome=bindparam("ended"), answered_at=bindparam("now", type_=Moment()), minted=c.minted & asked)
    )


def nth_mint(*, of_link: Any, since: Any) -> Any:
    """The moment of the twentieth-latest mint of a link since ``since``; NULL if there were fewer. Part of a statement."""
    return (
        select(c.clicked_at)
        .where(
            c.link_id == of_link,
            c.clicked_at > since,
            c.minted,
        )
        .order_by(c.clicked_at.desc())
        .offset(MINTS - 1)
        .limit(1)
        .scalar_subquery()
    )
