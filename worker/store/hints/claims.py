"""Leases of hints: claiming, renewing and finishing them."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.hint_states import OVER, HintState
from worker.policy.poison import MOST_DEATHS, batch_size
from worker.store.hints.claimed import ClaimedHints, HintResult, claimed_hints
from worker.store.pauses import EVERYTHING, MX, any_paused
from worker.store.sql.moments import Moment, database_now, later
from worker.store.sql.rows import Rows
from worker.store.sql.tables import hints, members, state_literal

h = hints.c

#: Seconds between two readings of one member.
READS_APART = 3.0
#: How long a hint is kept after it last came. MX repeats a webhook for about a day.
KEPT = timedelta(days=2)
#: Old hints deleted at once.
_MOST_DELETED = 5_000
#: The lock under which PostgreSQL's workers claim hints, one after the other.
_CLAIMING = 7_264_901

_DUE, _LEASED = state_literal(HintState.DUE), state_literal(HintState.LEASED)
_NOW = bindparam("now", type_=Moment())


class HintClaims:
    """Leases of hints, in the transaction of the caller. Statements are made once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._lease = _lease_statement(rows, poison=False)
        self._lease_poison = _lease_statement(rows, poison=True)
        self._fewest_deaths = select(func.min(h.lost_leases)).where(_claimable(poison=True))
        guids = rows.table("given", {"guid": Text()}).c
        m = members.c
        row = (m.member_guid, m.user_guid, m.moved_to)
        self._known = select(*row).where(m.member_guid == guids.guid)
        self._moved = select(*row).where(m.moved_to == guids.guid, m.moved_to.is_not(None))
        self._of_user = select(*row).where(m.user_guid == guids.guid).order_by(m.member_guid)
        fences = rows.table("given", {"key": Text(), "epoch": BigInteger()}).c
        is_still_leased = and_(h.key == fences.key, h.epoch == fences.epoch, h.state == _LEASED)
        self._still_leased = select(h.key).where(is_still_leased).order_by(h.key).with_for_update(of=hints)
        self._release = (
            update(hints).where(is_still_leased).values(state=HintState.DUE, lease_worker=None, lease_expires_at=None)
        )
        self._renew = (
            update(hints)
            .where(is_still_leased)
            .values(lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())))
        )
        self._finish = _finish_statement(rows)
        self._waiting = and_(h.state == _DUE, h.next_attempt_at <= _NOW, ~any_paused(EVERYTHING, MX))
        self._lost = and_(h.state == _LEASED, h.lease_expires_at < database_now())

    async def claim(
        self,
        connection: AsyncConnection,
        n: int,
        *,
        worker_id: str,
        lease_seconds: float,
        now: datetime,
        poison: bool,
    ) -> list[ClaimedHints]:
        """Claim up to ``n`` due hints, and all other waiting hints of the same members. ``poison``: only hints whose workers died."""
        if not self._rows.is_sqlite:  # SQLite has one writer at a time anyway
            await connection.execute(select(func.pg_advisory_xact_lock(_CLAIMING)))
        parameters: dict[str, Any] = {"n": n, "worker_id": worker_id, "lease_seconds": lease_seconds, "now": now}
        statement = self._lease
        if poison:
            deaths = await connection.scalar(self._fewest_deaths, {"now": now})
            if deaths is None:
                return []
            parameters |= {"n": batch_size(n, deaths), "deaths": deaths}
            statement = self._lease_poison
        leased_rows = (await connection.execute(statement, parameters)).all()
        return await self._claimed(connection, leased_rows) if leased_rows else []

    async def _claimed(self, connection: AsyncConnection, leased_rows: Sequence[Any]) -> list[ClaimedHints]:
        by_guid: dict[str, list[Any]] = {}
        for row in leased_rows:
            by_guid.setdefault(row.member_guid or row.user_guid, []).append(row)
        member_guids = {guid for guid, hint_rows in by_guid.items() if hint_rows[0].member_guid is not None}
        known = {row.member_guid: row for row in await self._read(connection, self._known, member_guids)}
        known = {
            row.moved_to: row for row in await self._read(connection, self._moved, member_guids - known.keys())
        } | known
        of_user: dict[str, list[Any]] = {}
        for row in await self._read(connection, self._of_user, by_guid.keys() - member_guids):
            of_user.setdefault(row.user_guid, []).append(row)
        return [
            claimed_hints(guid, hint_rows, known.get(guid), of_user.get(guid, ()), is_member=guid in member_guids)
            for guid, hint_rows in by_guid.items()
        ]

    async def _read(self, connection: AsyncConnection, statement: Any, guids: Collection[str]) -> Sequence[Any]:
        if not guids:
            return ()
        given = self._rows.encode({"guid": guid} for guid in sorted(guids))
        return (await connection.execute(statement, {"given": given})).all()

    async def recover(self, connection: AsyncConnection) -> int:
        """Hints whose worker let the lease run out are due again; after six deaths they are given up."""
        is_poison = h.lost_leases + 1 >= MOST_DEATHS
        statement = (
            update(hints)
            .where(self._lost)
            .values(
                state=case((is_poison, str(HintState.FAILED)), else_=str(HintState.DUE)),
                outcome=case((is_poison, "poison"), else_=h.outcome),
                next_attempt_at=case((is_poison, null()), else_=h.next_attempt_at),
                epoch=h.epoch + 1,
                lost_leases=h.lost_leases + 1,
                lease_worker=None,
                lease_expires_at=None,
            )
        )
        return int((await connection.execute(statement)).rowcount)

    async def forget(self, connection: AsyncConnection, before: datetime) -> None:
        """Delete hints that last came before this moment and are neither due nor leased."""
        old = (
            select(h.key)
            .where(
                h.last_received_at < before,
                h.state.in_([state_literal(state) for state in OVER]),
            )
            .limit(_MOST_DELETED)
        )
        await connection.execute(delete(hints).where(self._rows.among(h.key, old)))

    async def due(self, connection: AsyncConnection, now: datetime, *, at_most: int) -> int:
        """How many hints could be claimed now or have an expired lease, counted no further than ``at_most``."""
        count = 0
        # Two statements: an OR over two partial indexes would read the table.
        for condition in (self._waiting, self._lost):
            some = select(literal(1)).select_from(hints).where(condition).limit(at_most).subquery()
            count += int(await connection.scalar(select(func.count()).select_from(some), {"now": now}) or 0)
        return min(count, at_most)

    async def still_leased(self, connection: AsyncConnection, claims: Sequence[ClaimedHints]) -> set[str]:
        """The keys of the hints that are still leased under their epoch, locked in order of their keys."""
        return {row[0] for row in await connection.execute(self._still_leased, {"given": self._encode_fences(claims)})}

    async def release(self, connection: AsyncConnection, claims: Sequence[ClaimedHints]) -> None:
        """End leases; the hints are due again."""
        await connection.execute(self._release, {"given": self._encode_fences(claims)})

    async def renew(self, connection: AsyncConnection, claims: Sequence[ClaimedHints], *, lease_seconds: float) -> None:
        """Lengthen leases."""
        await connection.execute(self._renew, {"given": self._encode_fences(claims), "lease_seconds": lease_seconds})

    async def finish(self, connection: AsyncConnection, results: Sequence[HintResult], now: datetime) -> None:
        """Write the results of claimed hints. A hint that came again meanwhile is due once more."""
        ordered = sorted(
            ((fence, result) for result in results for fence in result.claim.fences), key=lambda each: each[0].key
        )
        given = [
            {
                "key": fence.key,
                "epoch": fence.epoch,
                "times": fence.times,
                "state": result.state,
                "outcome": result.outcome,
                "next_attempt_at": result.next_attempt_at,
                "attempts": result.attempts,
            }
            for fence, result in ordered
        ]
        await connection.execute(self._finish, {"given": self._rows.encode(given), "now": now})

    def _encode_fences(self, claims: Sequence[ClaimedHints]) -> str:
        fences = sorted((fence for claim in claims for fence in claim.fences), key=lambda fence: fence.key)
        return self._rows.encode({"key": fence.key, "epoch": fence.epoch} for fence in fences)


def _claimable(*, poison: bool) -> ColumnElement[bool]:
    """Whether a hint is due, and its member is not being read and was not read within :data:`READS_APART`.

    The plain SQL is ``NOT EXISTS``. PostgreSQL turns that into a join and may read all hints for it. So this counts instead.
    """
    other = hints.alias("other")
    o = other.c
    read_now_or_lately = (
        select(func.count())
        .select_from(other)
        .where(
            o.member_guid == h.member_guid,
            or_(o.state == _LEASED, later(o.read_at, literal(READS_APART, Float())) > _NOW),
        )
        .correlate(hints)
    )
    deaths = h.lost_leases > 0 if poison else h.lost_leases == 0
    return and_(
        h.state == _DUE,
        h.next_attempt_at <= _NOW,
        ~any_paused(EVERYTHING, MX),
        deaths,
        read_now_or_lately.scalar_subquery() == 0,
    )


def _lease_statement(rows: Rows, *, poison: bool) -> Any:
    """Lease due hints, and with each all other waiting hints of its member. In plain SQL::

    WITH due AS (SELECT key, member_guid FROM hints WHERE … is claimable … ORDER BY next_attempt_at LIMIT :n FOR UPDATE SKIP LOCKED),
         along AS (SELECT key FROM hints WHERE member_guid IN (SELECT member_guid FROM due) AND state = 'due' FOR UPDATE SKIP LOCKED)
    UPDATE hints SET state = 'leased', lease_worker = :worker_id, lease_expires_at = now() + :lease_seconds, epoch = epoch + 1
    WHERE key IN (SELECT key FROM due UNION ALL SELECT key FROM along) RETURNING …
    """
    claimable = _claimable(poison=poison)
    if poison:
        claimable = and_(claimable, h.lost_leases == bindparam("deaths", type_=Integer()))
    due = (
        select(h.key, h.member_guid)
        .where(claimable)
        .order_by(h.next_attempt_at)
        .limit(bindparam("n", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    sibling = hints.alias("sibling")
    s = sibling.c
    along = (
        select(s.key)
        .where(rows.among(s.member_guid, select(due.c.member_guid)), s.state == _DUE)
        .where(s.lost_leases > 0 if poison else s.lost_leases == 0)
        .with_for_update(skip_locked=True, of=sibling)
        .cte("along")
    )
    leased_keys = select(due.c.key) if poison else select(due.c.key).union_all(select(along.c.key))
    return (
        update(hints)
        .where(rows.among(h.key, leased_keys))
        .values(
            state=HintState.LEASED,
            lease_worker=bindparam("worker_id"),
            lease_expires_at=database_now(bindparam("lease_seconds", type_=Float())),
            epoch=h.epoch + 1,
        )
        .returning(h.key, h.epoch, h.times, h.member_guid, h.user_guid, h.attempts)
    )


def _finish_statement(rows: Rows) -> Any:
    given = rows.table(
        "given",
        {
            "key": Text(),
            "epoch": BigInteger(),
            "times": Integer(),
            "state": Text(),
            "outcome": Text(),
            "next_attempt_at": Moment(),
            "attempts": Integer(),
        },
    ).c
    came_again = and_(h.times != given.times, given.state != str(HintState.DUE))
    return (
        update(hints)
        .where(h.key == given.key, h.epoch == given.epoch, h.state == _LEASED)
        .values(
            state=case((came_again, str(HintState.DUE)), else_=given.state),
            next_attempt_at=case((came_again, _NOW), else_=given.next_attempt_at),
            outcome=given.outcome,
            attempts=given.attempts,
            # If the hint is due again, MX did not answer, so the member was not read.
            read_at=case((given.state == str(HintState.DUE), h.read_at), else_=_NOW),
            lease_worker=None,
            lease_expires_at=None,
            lost_leases=0,
        )
    )
