"""What the fetch stage takes from the database and gives back: claims under a lease, results behind a fence."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.poison import batch_size
from worker.policy.states import ReconnectionState
from worker.store.fetch_settling import ClaimedReconnection, Settling, UserResult
from worker.store.outages import OUTAGE_OVER
from worker.store.pauses import EVERYTHING, MX, holds_all, holds_institution
from worker.store.people import User, UserStore
from worker.store.selection import FACTS, facts_of
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, written

r = reconnections.c


class FetchStore:
    """Claims, settles and releases reconnections."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = rows = database.rows
        self._people = UserStore(rows)
        self._claim = _claim_statement(rows)
        self._claim_probe = _claim_statement(rows, probe=True)
        self._claim_poison = _claim_statement(rows, poison=True)
        self._fewest_deaths = select(func.min(r.lost_leases)).where(
            _claimable(bindparam("now", type_=Moment()), poison=True)
        )
        self._context = _context_statement(rows)
        self._release = _release_statement(rows)
        self._renew = _renew_statement(rows)
        self._settling = Settling(rows)

    async def claim(
        self, n: int, *, worker_id: str, lease_seconds: float, now: datetime, soon: datetime, probe: bool = False
    ) -> list[ClaimedReconnection]:
        """Take up to ``n`` due reconnections, and with each what else its user has due by ``soon``.

        A ``probe`` is taken although requests to MX are paused.
        """
        statement = self._claim_probe if probe else self._claim
        parameters = {"n": n, "worker_id": worker_id, "now": now, "soon": soon, "lease_seconds": lease_seconds}

        async def work(connection: AsyncConnection) -> list[ClaimedReconnection]:
            taken = (await connection.execute(statement, parameters)).scalars().all()
            if not taken:
                return []
            given = self._rows.encode({"id": id_} for id_ in taken)
            return [_claim_of(row) for row in await connection.execute(self._context, {"given": given})]

        return await self._database.transaction(work)

    async def claim_poison(
        self, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedReconnection]:
        """Take rows whose holders died, those with the fewest deaths first and the fewer together the more often they did."""

        async def work(connection: AsyncConnection) -> list[ClaimedReconnection]:
            deaths = await connection.scalar(self._fewest_deaths, {"now": now})
            if deaths is None:
                return []
            parameters = {"n": batch_size(n, deaths), "deaths": deaths, "worker_id": worker_id, "now": now}
            statement = self._claim_poison, parameters | {"lease_seconds": lease_seconds}
            taken = (await connection.execute(*statement)).scalars().all()
            given = self._rows.encode({"id": id_} for id_ in taken)
            return [_claim_of(row) for row in await connection.execute(self._context, {"given": given})]

        return await self._database.transaction(work)

    async def people(self, guids: set[str], *, since: datetime) -> dict[str, User]:
        """The persons behind claims, with what they were sent after ``since``."""
        return await self._database.transaction(lambda connection: self._people.load(connection, guids, since=since))

    async def settle(self, next_steps: Sequence[UserResult], *, now: datetime) -> int:
        """Write the results of claims that are still held, in one transaction; the others are somebody else's by now.

        A person to whom a message went under way meanwhile gets no second one: their reconnections wait for their turn.
        Returns how many messages are to be delivered.
        """
        return await self._database.transaction(lambda connection: self._settling.run(connection, next_steps, now))

    async def release(self, claims: Sequence[ClaimedReconnection]) -> None:
        """Hand leases back at once, nothing spent."""
        given = self._rows.encode({"id": claim.id, "epoch": claim.epoch} for claim in claims)
        await self._database.transaction(lambda connection: connection.execute(self._release, {"given": given}))

    async def renew(self, claims: Sequence[ClaimedReconnection], *, lease_seconds: float) -> None:
        """Lengthen the leases that are still held."""
        given = self._rows.encode({"id": claim.id, "epoch": claim.epoch} for claim in claims)
        parameters = {"given": given, "lease_seconds": lease_seconds}
        await self._database.transaction(lambda connection: connection.execute(self._renew, parameters))

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many reconnections could be claimed now, counted no further than ``at_most``."""
        found = select(reconnections.c.id).where(_claimable(literal(now, Moment()))).limit(at_most).subquery()

        async def work(connection: AsyncConnection) -> int:
            return int(await connection.scalar(select(func.count()).select_from(found)) or 0)

        return await self._database.transaction(work)


def _claimable(now: ColumnElement[datetime], *, probe: bool = False, poison: bool | None = None) -> ColumnElement[bool]:
    return and_(r.state == written("due"), r.next_attempt_at <= now, _may_go(r, probe=probe, poison=poison))


def _may_go(row: Any, *, probe: bool, poison: bool | None = False) -> ColumnElement[bool]:
    """What holds for every row of ``reconnections`` that a claim takes, whether it is due itself or taken along with another.

    No pause covers it, and its workers did not die; with ``poison`` only rows whose workers died, with ``None`` either.
    """
    paused = or_(holds_all(*((EVERYTHING,) if probe else (EVERYTHING, MX))), holds_institution(row.institution_code))
    if poison is None:
        return ~paused
    return and_(~paused, row.lost_leases > 0 if poison else row.lost_leases == 0)


def _is_first_of_its_user(now: ColumnElement[datetime], *, probe: bool) -> ColumnElement[bool]:
    """Whether nothing of the same person could be claimed before it.

    A person is claimed by their first reconnection alone, and the others come along: of claims that run side by side only one can
    lock it, so that nobody's banks are told in two messages. It counts rather than asking whether one exists, since PostgreSQL
    would turn the latter into a join, and may think it best to go through all reconnections for it; and it hides the state from the
    planner, for whom the index of what is due looks as good as that of users while it does not know how much is due.
    """
    earlier = reconnections.alias("earlier")
    e = earlier.c
    before = or_(e.next_attempt_at < r.next_attempt_at, and_(e.next_attempt_at == r.next_attempt_at, e.id < r.id))
    count = (
        select(func.count())
        .select_from(earlier)
        .where(e.user_guid == r.user_guid, e.closed_at.is_(None), func.coalesce(e.state, "") == "due")
        .where(e.next_attempt_at <= now, before, _may_go(e, probe=probe))
        .correlate(reconnections)
    )
    return count.scalar_subquery() == 0


def _claim_statement(rows: Rows, *, probe: bool = False, poison: bool = False) -> Any:
    """Rows are locked in a CTE, so that LIMIT holds and nobody waits for another's; SQLite has one writer at a time anyway."""
    now = bindparam("now", type_=Moment())
    claimable = _claimable(now, probe=probe, poison=poison)
    if poison:
        claimable = and_(claimable, r.lost_leases == bindparam("deaths", type_=Integer()))
    elif not rows.is_sqlite:
        claimable = and_(claimable, _is_first_of_its_user(now, probe=probe))
    due = (
        select(r.id, r.user_guid)
        .where(claimable)
        .order_by(r.next_attempt_at, r.id)
        .limit(bindparam("n", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    sibling = reconnections.alias("sibling")
    along = (
        select(sibling.c.id)
        # A join, and conditions of the row alone: for one user at a time PostgreSQL takes the index of users, even when it
        # does not know yet that a sweep opened a million reconnections, and takes the index of all that are open for a short one.
        .join(due, sibling.c.user_guid == due.c.user_guid)
        .where(
            sibling.c.closed_at.is_(None),
            sibling.c.state.in_((written("due"), written("notified"))),
            sibling.c.next_attempt_at <= bindparam("soon", type_=Moment()),
            # After an outage the ramp decides when a reconnection goes; grace and reminders may be cut short, the ramp may not.
            or_(sibling.c.next_attempt_at <= now, func.coalesce(sibling.c.outcome, "") != OUTAGE_OVER),
            _may_go(sibling.c, probe=probe),
        )
        .with_for_update(skip_locked=True, of=sibling)
        .cte("along")
    )
    taken = select(due.c.id) if poison else union_all(select(due.c.id), select(along.c.id))
    return (
        update(reconnections)
        .where(rows.among(r.id, taken))
        .values(
            state=ReconnectionState.LEASED,
            lease_worker=bindparam("worker_id"),
            lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())),
            epoch=r.epoch + 1,
        )
        .returning(r.id)
    )


def _context_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger()})
    return (
        select(*_CLAIMED, members.c.member_guid.label("known"), *FACTS)
        .join(given, r.id == given.c.id)
        .outerjoin(members, members.c.member_guid == r.member_guid)
        .order_by(r.user_guid, r.id)
    )


def _release_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})
    return (
        update(reconnections)
        .where(r.id == given.c.id, r.epoch == given.c.epoch, r.state == written("leased"))
        .values(state=ReconnectionState.DUE, lease_worker=None, lease_expires_at=None)
    )


def _renew_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})
    return (
        update(reconnections)
        .where(r.id == given.c.id, r.epoch == given.c.epoch, r.state == written("leased"))
        .values(lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())))
    )


#: In the order of :class:`~worker.store.fetch_settling.ClaimedReconnection`.
_CLAIMED = (
    r.id,
    r.epoch,
    r.member_guid,
    r.user_guid,
    func.coalesce(r.moved_to, r.member_guid),
    r.reason,
    r.broken_since,
    r.next_attempt_at,
    r.attempts,
    r.step,
    r.base_step,
    r.first_notified_at,
)


def _claim_of(row: Any) -> ClaimedReconnection:
    known, *facts = row[len(_CLAIMED) :]
    claimed: tuple[Any, ...] = (*row[: len(_CLAIMED)], facts_of(facts) if known else None)
    return ClaimedReconnection(*claimed)
