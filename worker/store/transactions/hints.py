"""The transactions of hints."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.hint_states import HintState
from worker.store.from_mx.answers import Applied, MxMember
from worker.store.from_mx.members import MxMembers
from worker.store.hints.arriving import Arrivals, Hint
from worker.store.hints.claimed import ClaimedHints, HintResult
from worker.store.hints.claims import KEPT, READS_APART, HintClaims
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.tables import reconnections, users

r = reconnections.c

#: Answers whose requests began within this time (seconds) are applied together.
_TOGETHER = 2.0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """MX's answers about the members of claimed hints."""

    result: HintResult
    #: A moment before the first of them was asked for, by the database's clock.
    read_at: datetime
    answers: tuple[MxMember, ...] = ()
    #: The GUIDs of our rows whose members MX no longer knows.
    gone: tuple[str, ...] = ()
    #: For members that we do not have: the client's own id of the user, by the member's GUID. Our tables may name the user by it.
    own_users: Mapping[str, str] = {}


class HintStore:
    """The transactions of hints."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._arrivals = database.rows.part(Arrivals)
        self._claims = database.rows.part(HintClaims)
        self._overtaken = select(r.member_guid).where(
            r.member_guid.in_(bindparam("guids", expanding=True)),
            r.closed_at >= bindparam("read_at", type_=Moment()),
            r.closed_at < bindparam("now", type_=Moment()),
        )
        self._users = select(users.c.user_guid).where(users.c.user_guid.in_(bindparam("names", expanding=True)))

    async def add(self, new_hints: Sequence[Hint]) -> int:
        """Store hints in one transaction; returns for how many of them a member is to be read. The same hint twice is one row."""
        if not new_hints:
            return 0
        return await self._database.apart(lambda connection: self._arrivals.add(connection, new_hints))

    async def claim(
        self, n: int, *, worker_id: str, lease_seconds: float, now: datetime, poison: bool = False
    ) -> list[ClaimedHints]:
        """Claim up to ``n`` due hints, and the other due hints of the same members. ``poison``: only hints whose workers died."""
        return await self._database.transaction(
            lambda connection: self._claims.claim(
                connection, n, worker_id=worker_id, lease_seconds=lease_seconds, now=now, poison=poison
            )
        )

    async def recover(self, now: datetime) -> int:
        """Make hints with an expired lease due again, and delete old hints; how many leases had expired."""

        async def work(connection: AsyncConnection) -> int:
            await self._claims.forget(connection, now - KEPT)
            return await self._claims.recover(connection)

        return await self._database.transaction(work)

    async def release(self, claims: Sequence[ClaimedHints]) -> None:
        """End leases; nothing is counted."""
        await self._database.transaction(lambda connection: self._claims.release(connection, claims))

    async def renew(self, claims: Sequence[ClaimedHints], *, lease_seconds: float) -> None:
        """Lengthen leases."""
        await self._database.transaction(
            lambda connection: self._claims.renew(connection, claims, lease_seconds=lease_seconds)
        )

    async def due(self, now: datetime, *, at_most: int) -> int:
        """How many hints could be claimed now or have an expired lease, counted no further than ``at_most``."""
        return await self._database.transaction(lambda connection: self._claims.due(connection, now, at_most=at_most))

    async def settle(self, readings: Sequence[Reading], *, now: datetime, skip_aggregation: bool) -> Applied:
        """Apply what MX said, and finish the hints, in one transaction. Hints that another worker claimed meanwhile are left to that worker.

        A member whose reconnection ended after it was asked for is read once more (:func:`worker.store.from_mx.members.MxMembers.apply`).
        """

        async def work(connection: AsyncConnection) -> Applied:
            leased_keys = await self._claims.still_leased(connection, [reading.result.claim for reading in readings])
            leased_readings = [
                reading
                for reading in readings
                if any(fence.key in leased_keys for fence in reading.result.claim.fences)
            ]
            applied = Applied()
            results = [reading.result for reading in leased_readings]
            for group in _by_moment(leased_readings):
                group_applied, overtaken_guids = await self._apply(
                    connection, group, now=now, skip_aggregation=skip_aggregation
                )
                applied += group_applied
                results = [
                    _once_more(result, now) if result.claim.guid in overtaken_guids else result for result in results
                ]
            await self._claims.finish(connection, results, now)
            return applied

        return await self._database.transaction(work)

    async def _apply(
        self, connection: AsyncConnection, readings: Sequence[Reading], *, now: datetime, skip_aggregation: bool
    ) -> tuple[Applied, set[str]]:
        """The counts of what was applied, and the members that are to be read once more."""
        read_at = readings[0].read_at
        rows = self._database.rows
        answers = await self._by_our_users(connection, readings)
        applied = await rows.part(MxMembers).apply(
            connection, answers, read_at=read_at, now=now, skip_aggregation=skip_aggregation
        )
        await rows.part(MxMembers).mark_gone(connection, [guid for reading in readings for guid in reading.gone], now)
        if not applied.overtaken:
            return applied, set()
        guids = {guid: reading.result.claim.guid for reading in readings for target in reading.result.claim.targets
                 if (guid := target.row_guid) is not None}  # fmt: skip
        overtaken_rows = await connection.execute(
            self._overtaken, {"guids": list(guids), "read_at": read_at, "now": now}
        )
        return applied, {guids[row[0]] for row in overtaken_rows}

    async def _by_our_users(self, connection: AsyncConnection, readings: Sequence[Reading]) -> list[MxMember]:
        """The answers, with users named by the client's own id if our tables name them so."""
        answers = [answer for reading in readings for answer in reading.answers]
        own_ids = {guid: id_ for reading in readings for guid, id_ in reading.own_users.items()}
        if not own_ids:
            return answers
        our_names = set((await connection.execute(self._users, {"names": sorted(set(own_ids.values()))})).scalars())
        return [
            msgspec.structs.replace(answer, user_guid=own_ids[answer.member_guid])
            if own_ids.get(answer.member_guid) in our_names
            else answer
            for answer in answers
        ]


def _by_moment(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Groups readings by the moment at which they began. A group spans 2 s at most, since its earliest moment counts for all of it."""
    groups: list[list[Reading]] = []
    for reading in sorted(readings, key=lambda reading: reading.read_at):
        if not groups or (reading.read_at - groups[-1][0].read_at).total_seconds() > _TOGETHER:
            groups.append([])
        groups[-1].append(reading)
    return groups


def _once_more(result: HintResult, now: datetime) -> HintResult:
    at = now + timedelta(seconds=READS_APART)
    return msgspec.structs.replace(result, state=HintState.DUE, outcome="overtaken", next_attempt_at=at)
