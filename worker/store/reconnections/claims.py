"""Leases of reconnections: claiming those that are due, ending and renewing leases, recovering those of dead workers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.poison import batch_size
from worker.policy.selection import MemberFacts
from worker.policy.states import Mover, ReconnectionState, check
from worker.store.members import muted
from worker.store.pauses import EVERYTHING, MX, any_paused, holds_institution
from worker.store.reconnections.checks import only_for_click
from worker.store.reconnections.transitions import OUTAGE_OVER
from worker.store.selection import FACTS, facts_of
from worker.store.sql.application import is_set
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections, state_literal

r = reconnections.c
_R = ReconnectionState


class ClaimedReconnection(msgspec.Struct, frozen=True):
    """A reconnection that this worker has leased."""

    id: int
    epoch: int
    member_guid: str
    user_guid: str
    #: The GUID to ask MX for: the member's own, or the one it moved to.
    asked_guid: str
    reason: str
    broken_since: datetime
    next_attempt_at: datetime
    attempts: int
    step: int
    base_step: int
    first_notified_at: datetime | None
    #: The application's row of the member; ``None`` if it was deleted.
    facts: MemberFacts | None
    #: Whether the user asked for no messages about this member.
    muted: bool = False
    #: Whether the application's row names another user than the reconnection.
    is_of_other_user: bool = False


class ReconnectionClaims:
    """Leases, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        check("lease", Mover.FETCH, _R.DUE, _R.LEASED)
        check("lease", Mover.FETCH, _R.NOTIFIED, _R.LEASED)
        check("release", Mover.FETCH, _R.LEASED, _R.DUE)
        check("recover", Mover.SWEEP, _R.LEASED, _R.DUE)
        self._rows = rows
        self._lease = _lease_statement(rows)
        self._lease_probe = _lease_statement(rows, probe=True)
        self._lease_poison = _lease_statement(rows, poison=True)
        self._fewest_deaths = select(func.min(r.lost_leases)).where(
            _claimable(bindparam("now", type_=Moment()), poison=True)
        )
        self._context = _context_statement(rows)
        self._still_leased = _still_leased_statement(rows)
        self._release = _release_statement(rows)
        self._renew = _renew_statement(rows)

    async def lease(
        self,
        connection: AsyncConnection,
        n: int,
        *,
        worker_id: str,
        lease_seconds: float,
        now: datetime,
        soon: datetime,
        probe: bool,
    ) -> list[ClaimedReconnection]:
        """Take up to ``n`` due reconnections, and with each the user's others that are due by ``soon``.

        ``probe``: also while requests to MX are paused.
        """
        statement = self._lease_probe if probe else self._lease
        parameters = {"n": n, "worker_id": worker_id, "now": now, "soon": soon, "lease_seconds": lease_seconds}
        return await self._claimed(connection, statement, parameters)

    async def lease_poison(
        self, connection: AsyncConnection, n: int, *, worker_id: str, lease_seconds: float, now: datetime
    ) -> list[ClaimedReconnection]:
        """Take rows whose workers died, those with the fewest deaths first; the more deaths, the fewer at once."""
        deaths = await connection.scalar(self._fewest_deaths, {"now": now})
        if deaths is None:
            return []
        parameters = {"n": batch_size(n, deaths), "deaths": deaths, "worker_id": worker_id, "now": now}
        return await self._claimed(connection, self._lease_poison, parameters | {"lease_seconds": lease_seconds})

    async def _claimed(
        self, connection: AsyncConnection, statement: Any, parameters: dict[str, Any]
    ) -> list[ClaimedReconnection]:
        ids = (await connection.execute(statement, parameters)).scalars().all()
        if not ids:
            return []
        given = self._rows.encode({"id": id_} for id_ in ids)
        return [_claim_of(row) for row in await connection.execute(self._context, {"given": given})]

    async def still_leased(self, connection: AsyncConnection, claims: Sequence[ClaimedReconnection]) -> set[int]:
        """The ids of those that are still leased under their epoch, locked in order of their ids."""
        if not claims:
            return set()
        return {row[0] for row in await connection.execute(self._still_leased, {"given": self._encode_fences(claims)})}

    async def release(self, connection: AsyncConnection, claims: Sequence[ClaimedReconnection]) -> None:
        """End leases at once; nothing is counted."""
        await connection.execute(self._release, {"given": self._encode_fences(claims)})

    async def renew(
        self, connection: AsyncConnection, claims: Sequence[ClaimedReconnection], *, lease_seconds: float
    ) -> None:
        """Lengthen the leases that are still held."""
        await connection.execute(self._renew, {"given": self._encode_fences(claims), "lease_seconds": lease_seconds})

    def _encode_fences(self, claims: Sequence[ClaimedReconnection]) -> str:
        return self._rows.encode({"id": claim.id, "epoch": claim.epoch} for claim in claims)

    async def recover(self, connection: AsyncConnection) -> int:
        """Make reconnections with an expired lease due again. The new epoch discards late results of their worker."""
        statement = (
            update(reconnections)
            .where(r.state == state_literal(_R.LEASED), r.lease_expires_at < database_now())
            .values(
                state=_R.DUE,
                epoch=r.epoch + 1,
                lost_leases=r.lost_leases + 1,
                lease_worker=None,
                lease_expires_at=None,
                outcome="lease_lost",
                outcome_at=database_now(),
            )
        )
        return int((await connection.execute(statement)).rowcount)

    async def due(self, connection: AsyncConnection, now: datetime, *, at_most: int) -> int:
        """How many reconnections could be leased now, counted no further than ``at_most``."""
        due_rows = select(r.id).where(_claimable(literal(now, Moment()))).limit(at_most).subquery()
        return int(await connection.scalar(select(func.count()).select_from(due_rows)) or 0)


def _claimable(now: ColumnElement[datetime], *, probe: bool = False, poison: bool | None = None) -> ColumnElement[bool]:
    return and_(r.state == state_literal(_R.DUE), r.next_attempt_at <= now, _may_go(r, probe=probe, poison=poison))


def _may_go(row: Any, *, probe: bool, poison: bool | None = False) -> ColumnElement[bool]:
    """No pause covers the row, and ``poison`` says whether workers died with it (``None``: either way).

    This holds for every row that a claim takes, whether the row is due itself or comes along with another.
    """
    paused = or_(any_paused(*((EVERYTHING,) if probe else (EVERYTHING, MX))), holds_institution(row.institution_code))
    if poison is None:
        return ~paused
    return and_(~paused, row.lost_leases > 0 if poison else row.lost_leases == 0)


def _is_first_of_its_user(now: ColumnElement[datetime], *, probe: bool) -> ColumnElement[bool]:
    """Whether it is the first claimable reconnection of its user.

    A claim locks that row, and the user's other rows come along. Of two claims at the same time only one can lock the row, so a user's
    banks are never told in two messages.

    The plain SQL is ``NOT EXISTS (an earlier one)`` with ``state = 'due'``. PostgreSQL turns NOT EXISTS into a join and may read all
    reconnections for it. So this counts instead. While statistics do not yet show how many rows are due, PostgreSQL may use the index of
    due rows although the index of users is better. So the state is hidden from the planner.
    """
    earlier = reconnections.alias("earlier")
    e = earlier.c
    before = or_(e.next_attempt_at < r.next_attempt_at, and_(e.next_attempt_at == r.next_attempt_at, e.id < r.id))
    count = (
        select(func.count())
        .select_from(earlier)
        .where(e.user_guid == r.user_guid, e.closed_at.is_(None), func.coalesce(e.state, "") == "due")
        .where(e.next_attempt_at <= now, before, _may_go(e, probe=probe), muted(e.member_guid) == 0)
        .correlate(reconnections)
    )
    return count.scalar_subquery() == 0


def _lease_statement(rows: Rows, *, probe: bool = False, poison: bool = False) -> Any:
    """Lease due reconnections, and (not with ``poison``) what else their users have due soon. In plain SQL::

        WITH due AS (SELECT id, user_guid FROM reconnections WHERE … is due … AND it is the first of its user
                     ORDER BY next_attempt_at, id LIMIT :n FOR UPDATE SKIP LOCKED),
             along AS (SELECT id FROM reconnections JOIN due USING (user_guid)
                       WHERE state IN ('due', 'notified') AND next_attempt_at <= :soon … FOR UPDATE SKIP LOCKED)
        UPDATE reconnections SET state = 'leased', lease_worker = :worker_id, lease_expires_at = now() + :lease_seconds, epoch = epoch + 1
        WHERE id IN (SELECT id FROM due UNION ALL SELECT id FROM along) RETURNING id

    The CTEs lock rows first, so that LIMIT holds and no claim waits for another. SQLite has one writer at a time anyway.
    """
    now = bindparam("now", type_=Moment())
    claimable = _claimable(now, probe=probe, poison=poison)
    if poison:
        claimable = and_(claimable, r.lost_leases == bindparam("deaths", type_=Integer()))
    elif not rows.is_sqlite:
        claimable = and_(claimable, _is_first_of_its_user(now, probe=probe))
    due = (
        select(r.id, r.user_guid, muted(r.member_guid).label("muted"))
        .where(claimable)
        .order_by(r.next_attempt_at, r.id)
        .limit(bindparam("n", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    sibling = reconnections.alias("sibling")
    along = (
        select(sibling.c.id)
        # A join with conditions on this row only. Then PostgreSQL looks up one user at a time by the index of users. It does so even
        # before its statistics show the million reconnections that a sweep opened, while it still believes the index of open ones to
        # be short.
        .join(due, sibling.c.user_guid == due.c.user_guid)
        .where(
            sibling.c.closed_at.is_(None),
            sibling.c.state.in_((state_literal(_R.DUE), state_literal(_R.NOTIFIED))),
            sibling.c.next_attempt_at <= bindparam("soon", type_=Moment()),
            # After an outage the ramp decides when a reconnection is due. Grace and reminders may be shortened, the ramp may not.
            or_(sibling.c.next_attempt_at <= now, func.coalesce(sibling.c.outcome, "") != OUTAGE_OVER),
            _may_go(sibling.c, probe=probe),
            # No message tells of a muted member. It is claimed alone, so that the user's other banks keep their moments.
            due.c.muted == 0,
            muted(sibling.c.member_guid) == 0,
        )
        .with_for_update(skip_locked=True, of=sibling)
        .cte("along")
    )
    leased_ids = select(due.c.id) if poison else union_all(select(due.c.id), select(along.c.id))
    return (
        update(reconnections)
        .where(rows.among(r.id, leased_ids))
        .values(
            state=_R.LEASED,
            lease_worker=bindparam("worker_id"),
            lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())),
            epoch=r.epoch + 1,
            # A leased row needs no routine check: fetch asks MX itself. A check that a click asked for stays.
            next_check_at=case((r.state == state_literal(_R.NOTIFIED), only_for_click()), else_=r.next_check_at),
        )
        .returning(r.id)
    )


def _context_statement(rows: Rows) -> Any:
    given = rows.table("given", {"id": BigInteger()})
    return (
        select(
            *_CLAIMED,
            is_set(members.c.muted_at),
            members.c.user_guid != r.user_guid,
            members.c.member_guid.label("known"),
            *FACTS,
        )
        .join(given, r.id == given.c.id)
        .outerjoin(members, members.c.member_guid == r.member_guid)
        .order_by(r.user_guid, r.id)
    )


def _given_fences(rows: Rows) -> Any:
    """The parameter ``given`` as a table: id and epoch of each claim."""
    return rows.table("given", {"id": BigInteger(), "epoch": BigInteger()})


def _is_still_leased(given: Any) -> Any:
    """Whether a reconnection is still leased under its epoch: no other worker leased it since, and it is not settled."""
    return and_(r.id == given.c.id, r.epoch == given.c.epoch, r.state == state_literal(_R.LEASED))


def _still_leased_statement(rows: Rows) -> Any:
    given = _given_fences(rows)
    return select(r.id).join(given, _is_still_leased(given)).order_by(r.id).with_for_update(of=reconnections)


def _release_statement(rows: Rows) -> Any:
    given = _given_fences(rows)
    return (
        update(reconnections)
        .where(_is_still_leased(given))
        .values(state=_R.DUE, lease_worker=None, lease_expires_at=None)
    )


def _renew_statement(rows: Rows) -> Any:
    given = _given_fences(rows)
    return (
        update(reconnections)
        .where(_is_still_leased(given))
        .values(lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())))
    )


#: In the order of :class:`ClaimedReconnection`.
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
    is_muted, is_of_other_user, known_guid, *facts = row[len(_CLAIMED) :]
    of_member = (facts_of(facts) if known_guid else None, bool(is_muted), bool(is_of_other_user))
    claimed: tuple[Any, ...] = (*row[: len(_CLAIMED)], *of_member)
    return ClaimedReconnection(*claimed)
