"""The statements of a click over several tables, each in one round trip, because a user waits."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Float, bindparam, case, func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.links import MINTS_WITHIN
from worker.policy.moments import FIRST
from worker.policy.recovery import AFTER_CLICK
from worker.policy.states import ReconnectionState
from worker.store.clicks import Press, beginning, finishing, nth_mint
from worker.store.links import pressing
from worker.store.pauses import holds_by_hand
from worker.store.queries.link_page import BankNow, bank_of, columns_of_bank
from worker.store.reconnections.clicked import LockedReconnection, noting, serving
from worker.store.sql.fast_statements import FastStatement
from worker.store.sql.moments import Moment, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import links, members, notification_reconnections, reconnections
from worker.store.windows import may_be_handed_out, storing_clicked

r, k, item = reconnections.c, links.c, notification_reconnections.c

_NOW: Any = bindparam("now", type_=Moment())
#: If two presses of a link are closer than this (seconds), the second one is begun step by step.
_PRESSES_APART = 2.0
#: The age limit of a window (seconds) that means no limit.
NO_AGE = 10.0 * 365 * 86_400


class PressedReconnection(LockedReconnection, frozen=True, kw_only=True):
    """The state of a reconnection whose button was pressed, and whether MX may be asked for a window or one is stored."""

    #: Whether an operator paused everything or its institution.
    is_paused: bool
    #: Whether there may be a stored window for it.
    may_have_window: bool
    #: Until when MX must not be asked for a window for this link; ``None``: it may be asked now.
    no_mint_before: datetime | None


class ClickStatements:
    """The statements; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._noting = noting(of=bindparam("of", type_=BigInteger()), now=_NOW, soon=bindparam("soon", type_=Moment()))
        columns = (
            r.state,
            r.closed_at,
            holds_by_hand(r.institution_code).label("is_paused"),
            may_be_handed_out(r.id, fetched_after=bindparam("fetched_after", type_=Moment())).label("may_have_window"),
            nth_mint(of_link=bindparam("of_link", type_=BigInteger()), since=bindparam("since", type_=Moment())).label(
                "nth_mint"
            ),
        )
        self._is_sqlite = rows.is_sqlite
        if rows.is_sqlite:
            # Not with RETURNING: SQLAlchemy omits the table names of its columns, so in a subquery ``id`` would be the window's.
            self._read = FastStatement(rows, select(*columns).where(r.id == bindparam("of", type_=BigInteger())))
        else:
            self._read = FastStatement(rows, self._noting.returning(*columns))
            self._begin = FastStatement(rows, _begin_at_once(rows))
            self._serve = FastStatement(rows, _serve_at_once(rows))

    async def note(
        self,
        connection: AsyncConnection,
        reconnection_id: int,
        link_id: int,
        now: datetime,
        *,
        max_age: timedelta | None,
    ) -> PressedReconnection:
        """Record that a user pressed the button, so that the member is checked soon. Locks the reconnection; the link must be locked."""
        parameters = {
            "of": reconnection_id,
            "of_link": link_id,
            "now": now,
            "soon": now + AFTER_CLICK[0],
            "since": now - MINTS_WITHIN,
            "fetched_after": FIRST if max_age is None else now - max_age,
        }
        if self._is_sqlite:
            await connection.execute(self._noting, parameters)
        row = await self._read.first(connection, parameters)
        return PressedReconnection(
            state=ReconnectionState(row.state),
            is_open=row.closed_at is None,
            is_paused=bool(row.is_paused),
            may_have_window=bool(row.may_have_window),
            no_mint_before=None if row.nth_mint is None else row.nth_mint + MINTS_WITHIN,
        )

    async def begin(
        self,
        connection: AsyncConnection,
        token_hash: str,
        reconnection_id: int | None,
        nonce_hash: str,
        *,
        max_age: timedelta | None,
    ) -> tuple[BankNow, Press] | None:
        """The whole beginning of the usual click in one statement, which needs no transaction. MX is then to be asked for a window.

        ``None``: it is not the usual click, and must be begun step by step; that repeats what was done here, with the same result.
        A usual click is the first press of a link within two seconds, on an open bank that the message named (the only one, if the form
        names none), and nothing prevents asking MX. SQLite cannot do this.
        """
        parameters = {
            "of_hash": token_hash,
            "named": reconnection_id,
            "nonce": nonce_hash,
            "max_age": NO_AGE if max_age is None else max_age.total_seconds(),
        }
        row = await self._begin.first(connection, parameters)
        if row is None:
            return None
        return bank_of(row), Press(id=row.click_id, clicked_at=row.now, outcome=None, is_new=True)

    async def serve(
        self, connection: AsyncConnection, parameters: Mapping[str, Any]
    ) -> tuple[str, ReconnectionState] | None:
        """All writes of a served click in one statement, which needs no transaction; returns the stored URI and the reconnection's state.

        ``None``: the reconnection is over, or the click has a window already. Then the writes must be done step by step; that repeats what
        was done here, with the same result. SQLite cannot do this.
        """
        row = await self._serve.first(connection, parameters)
        return None if row is None else (row.uri, ReconnectionState(row.state))


def _begin_at_once(rows: Rows) -> Any:
    """Locks the link first, then its reconnection, then the click.

    A statement sees the rows as they were when it began. Example: of two presses of one link at the same time the second waits for the
    lock of the first, and then does not see the first one's click. But it does see the current row of the link, which shows that it was
    pressed a moment ago. Then the statement does nothing.

    PostgreSQL spends nearly all of the time on planning, and more with each joined table. So single values are looked up by subqueries that
    PostgreSQL cannot turn into joins.
    """
    now = func.statement_timestamp(type_=Moment())
    named_id: ColumnElement[int | None] = bindparam("named", type_=BigInteger())
    link = pressing(
        k.last_clicked_at.is_(None) | (k.last_clicked_at < later(now, literal(-_PRESSES_APART, Float())))
    ).cte("link")
    only_one = select(func.max(item.reconnection_id)).where(item.notification_id == link.c.notification_id)
    of_message = select(item.reconnection_id).where(
        item.notification_id == link.c.notification_id, item.reconnection_id == r.id
    )
    bank = (
        select(*columns_of_bank(r, name=_name_of(r.member_guid)), link.c.id.label("link_id"), link.c.now)
        .select_from(link)
        .join(reconnections, r.id == func.coalesce(named_id, only_one.having(func.count() == 1).scalar_subquery()))
        .where(
            r.user_guid == link.c.user_guid,
            r.closed_at.is_(None),
            of_message.scalar_subquery() == r.id,
            _is_false(holds_by_hand(r.institution_code)),
            _is_false(may_be_handed_out(r.id, fetched_after=later(now, -bindparam("max_age", type_=Float())))),
            nth_mint(of_link=link.c.id, since=later(now, literal(-MINTS_WITHIN.total_seconds(), Float()))).is_(None),
        )
        .cte("bank")
    )
    soon = later(bank.c.now, literal(AFTER_CLICK[0].total_seconds(), Float()))
    noted = (
        noting(of=bank.c.reconnection_id, now=bank.c.now, soon=soon)
        .where(r.closed_at.is_(None))
        .returning(r.id, r.state.label("state_now"), *(column for column in bank.c if column.name != "state"))
        .cte("noted")
    )
    click = beginning(rows, select(noted.c.link_id, noted.c.id, noted.c.now)).cte("click")
    columns = [column for column in noted.c if column.name not in {"id", "state_now", "link_id"}]
    return select(*columns, noted.c.state_now.label("state"), click.c.id.label("click_id")).select_from(
        noted.join(click, true())
    )


def _is_false(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return case((condition, False), else_=True)


def _name_of(member_guid: Any) -> ColumnElement[Any]:
    return select(members.c.institution_name).where(members.c.member_guid == member_guid).scalar_subquery()


def _serve_at_once(rows: Rows) -> Any:
    """Locks the reconnection first, then its window, then the click."""
    served = serving().returning(r.id, r.state).cte("served")
    stored = storing_clicked(rows, of=served.c.id).cte("stored")
    finished = finishing().where(select(stored.c.uri).exists()).cte("finished")
    return select(served.c.state, stored.c.uri).select_from(served.join(stored, true())).add_cte(finished)
