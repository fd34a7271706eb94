"""Writes MX's answers about members, closes reconnections that are over by them, and marks members as gone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Text, bindparam, case, func, null, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.recovery import is_back
from worker.policy.selection import Reason
from worker.policy.states import Mover, ReconnectionState
from worker.store.from_mx.answers import WRITTEN, Applied, MxMember, OurMember, difference, first_of_each
from worker.store.from_mx.our_rows import OurRows
from worker.store.from_mx.users import MxUsers
from worker.store.members import Well
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.reconnections.changes import Change, close
from worker.store.reconnections.moving import Moving
from worker.store.reconnections.transitions import Transitions, blocks_as_gone
from worker.store.sql.moments import NEVER, Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconnections

m, r = members.c, reconnections.c
_R = ReconnectionState

#: States in which an answer of MX closes a reconnection here. `leased` belongs to the worker that has claimed it.
_CLOSABLE = frozenset({_R.DUE, _R.READY, _R.NOTIFIED})


class _Relevant(msgspec.Struct, frozen=True, kw_only=True):
    """A reconnection that is open, that ended after MX was asked, or that ended as `gone` by a 404 and keeps a sweep from opening another."""

    id: int
    member_guid: str
    state: str
    epoch: int
    reason: str
    broken_since: datetime
    closed_at: datetime | None


class MxMembers:
    """Writes MX's answers about members, in the transaction of the caller. Its SQL is built once for each database."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._transitions = rows.part(Transitions)
        self._moving = rows.part(Moving)
        self._notifications = rows.part(NotificationTransitions)
        self._our_rows = rows.part(OurRows)
        self._users = rows.part(MxUsers)
        guids = rows.table("given", {"guid": Text()})
        self._about = (
            select(*(r[name] for name in _Relevant.__struct_fields__))
            .join(guids, r.member_guid == guids.c.guid)
            .where(or_(r.closed_at.is_(None), r.closed_at >= bindparam("read_at", type_=Moment()), blocks_as_gone()))
        )
        self._update = _update(rows)
        self._insert = _insert(rows)
        self._mark_gone = (
            update(members)
            .where(m.member_guid == guids.c.guid, m.gone_at.is_(None))
            .values(gone_at=bindparam("now", type_=Moment()))
            .returning(m.member_guid)
        )

    async def apply(
        self,
        connection: AsyncConnection,
        answers: Iterable[MxMember],
        *,
        read_at: datetime,
        now: datetime,
        skip_aggregation: bool = False,
    ) -> Applied:
        """Write what MX said of these members, in the caller's transaction, with a few statements. Rows that do not differ are not written.

        ``read_at``: a moment before the first of them was asked for, by the database's clock. ``skip_aggregation``:
        ``MX_SKIP_AGGREGATION``. If MX names one member twice, the first answer counts.
        """
        first_answers, counts = first_of_each(answers)
        if not first_answers:
            return counts
        rows = await self._our_rows.about(connection, first_answers)
        inserted = await self._insert_unknown(
            connection, [answer for answer in first_answers if not rows.get(answer.member_guid)]
        )
        pairs, of_others = _pairs(first_answers, rows)
        reconnections_of = await self._reconnections(connection, pairs, read_at)
        # A reconnection of these ended after MX was asked, so this answer is older than our rows.
        overtaken = {
            guid
            for guid, reconnections_of_one in reconnections_of.items()
            if any(_ended_since(read_at, reconnection) for reconnection in reconnections_of_one)
        }
        for guid in overtaken:
            del reconnections_of[guid]
        back = await self._close(connection, pairs, reconnections_of, now=now, skip_aggregation=skip_aggregation)
        known_again = {
            reconnection.id: guid
            for guid, reconnections_of_one in reconnections_of.items()
            for reconnection in reconnections_of_one
            if reconnection.closed_at is not None
        }
        await self._transitions.know_again(connection, known_again)
        changed, moved = await self._update_rows(connection, {g: p for g, p in pairs.items() if g not in overtaken})
        changed.update(known_again.values())
        return counts + Applied(
            inserted=inserted,
            changed=len(changed),
            unchanged=len(pairs) - len(overtaken) - len(changed),
            back=back,
            moved=moved,
            of_others=tuple(of_others),
            overtaken=len(overtaken),
        )

    async def _update_rows(
        self, connection: AsyncConnection, pairs: Mapping[str, tuple[MxMember, OurMember]]
    ) -> tuple[set[str], int]:
        """Write what differs; returns the members whose rows were written, and how many of them have another GUID now."""
        differing = []
        moves = {}
        for guid in sorted(pairs):  # every transaction locks them in this order
            answer, row = pairs[guid]
            if (change := difference(answer, row)) is not None:
                differing.append(change)
                if change["moved_to"] is not None and change["moved_to"] != row.moved_to:
                    moves[guid] = answer.member_guid
        if differing:
            await connection.execute(self._update, {"given": self._rows.encode(differing)})
        await self._moving.note(connection, moves)
        return {change["member_guid"] for change in differing}, len(moves)

    async def _insert_unknown(self, connection: AsyncConnection, unknown: Sequence[MxMember]) -> int:
        if not unknown:
            return 0
        await self._users.insert(connection, {answer.user_guid for answer in unknown})
        new = [
            {
                "member_guid": answer.member_guid,
                "user_guid": answer.user_guid,
                "institution_code": answer.institution_code,
                "institution_name": answer.institution_name,
                "connection_status": answer.connection_status,
                "is_oauth": answer.is_oauth,
                "error_code": answer.error_code,
            }
            for answer in sorted(unknown, key=lambda one: one.member_guid)
        ]
        inserted = await connection.execute(self._insert, {"given": self._rows.encode(new)})
        return len(inserted.all())

    async def _reconnections(
        self, connection: AsyncConnection, guids: Collection[str], read_at: datetime
    ) -> dict[str, list[_Relevant]]:
        if not guids:
            return {}
        parameters = {"given": self._rows.encode({"guid": guid} for guid in sorted(guids)), "read_at": read_at}
        by_member: dict[str, list[_Relevant]] = {}
        for values in await connection.execute(self._about, parameters):
            reconnection = _Relevant(**dict(zip(_Relevant.__struct_fields__, values, strict=True)))
            by_member.setdefault(reconnection.member_guid, []).append(reconnection)
        return by_member

    async def _close(
        self,
        connection: AsyncConnection,
        pairs: Mapping[str, tuple[MxMember, OurMember]],
        reconnections_of: Mapping[str, Sequence[_Relevant]],
        *,
        now: datetime,
        skip_aggregation: bool,
    ) -> int:
        """Close the reconnections that are over by MX's answer; returns how many."""
        changes = [
            _closing(reconnection, pairs[guid][0], now=now)
            for guid, reconnections_of_one in reconnections_of.items()
            for reconnection in reconnections_of_one
            if reconnection.state in _CLOSABLE
            and _is_back(reconnection, pairs[guid][0], skip_aggregation=skip_aggregation)
        ]
        return await self._end(connection, changes, now)

    async def _end(self, connection: AsyncConnection, changes: Sequence[Change], now: datetime) -> int:
        if not changes:
            return 0
        ordered = sorted(changes, key=lambda change: change.id)
        closed = await self._transitions.apply(connection, ordered, by=Mover.SYNC, now=now)
        await self._notifications.cancel_about(connection, sorted(closed), now, by=Mover.SYNC)
        return len(closed)

    async def mark_gone(self, connection: AsyncConnection, member_guids: Collection[str], now: datetime) -> int:
        """MX answered 404 for these members: set ``gone_at``, and end their open reconnections as `gone`. Returns how many rows were written."""
        if not member_guids:
            return 0
        by_member = await self._reconnections(
            connection, member_guids, NEVER
        )  # only those that are open or block as `gone`
        changes = [
            close(
                reconnection.id,
                _R(reconnection.state),
                _R.GONE,
                now=now,
                epoch=reconnection.epoch,
                outcome="not_found",
                reopen_at=NEVER,
            )
            for reconnections_of_one in by_member.values()
            for reconnection in reconnections_of_one
            if reconnection.state in _CLOSABLE
        ]
        await self._end(connection, changes, now)
        given = self._rows.encode({"guid": guid} for guid in sorted(member_guids))
        return len((await connection.execute(self._mark_gone, {"given": given, "now": now})).scalars().all())


def _pairs(
    answers: Iterable[MxMember], rows: Mapping[str, Iterable[OurMember]]
) -> tuple[dict[str, tuple[MxMember, OurMember]], list[str]]:
    """Each row with the answer about it, by the row's GUID; and the GUIDs of rows that name another user than MX."""
    pairs, of_others = {}, []
    for answer in answers:
        for row in rows.get(answer.member_guid, ()):
            if row.user_guid != answer.user_guid:
                of_others.append(row.member_guid)
            else:
                pairs[row.member_guid] = (answer, row)
    return pairs, of_others


def _ended_since(read_at: datetime, reconnection: _Relevant) -> bool:
    return reconnection.closed_at is not None and reconnection.closed_at >= read_at


def _is_back(reconnection: _Relevant, answer: MxMember, *, skip_aggregation: bool) -> bool:
    # The member of a notice is well anyway.
    return reconnection.reason != Reason.EXPIRES_SOON and is_back(
        connection_status=answer.connection_status,
        is_being_aggregated=answer.is_being_aggregated,
        successfully_aggregated_at=answer.successfully_aggregated_at,
        error_code=answer.error_code,
        broken_since=reconnection.broken_since,
        reason=reconnection.reason,
        skip_aggregation=skip_aggregation,
    )


def _closing(reconnection: _Relevant, answer: MxMember, *, now: datetime) -> Change:
    well = Well(
        member_guid=reconnection.member_guid,
        connection_status=answer.connection_status or "",
        error_code=answer.error_code,
        aggregated_at=answer.successfully_aggregated_at,
    )
    return close(
        reconnection.id,
        _R(reconnection.state),
        _R.RECONNECTED,
        now=now,
        well=well,
        epoch=reconnection.epoch,
        outcome="back",
    )


def _update(rows: Rows) -> Any:
    given = rows.table("given", {"member_guid": Text(), **WRITTEN}).c
    optional_columns = ("connection_status", "is_oauth", "institution_code", "institution_name")
    return (
        update(members)
        .where(m.member_guid == given.member_guid)
        .values(
            **{name: func.coalesce(given[name], m[name]) for name in optional_columns},
            error_code=case((given.clears_error, null()), else_=func.coalesce(given.error_code, m.error_code)),
            moved_to=given.moved_to,
            gone_at=None,
        )
    )


def _insert(rows: Rows) -> Any:
    columns = {
        name: type_
        for name, type_ in {"member_guid": Text(), "user_guid": Text(), **WRITTEN}.items()
        if name not in {"clears_error", "moved_to"}
    }
    given = rows.table("given", columns)
    return (
        rows.insert(members)
        .from_select(list(columns), select(given).where(true()))
        .on_conflict_do_nothing(index_elements=["member_guid"])
        .returning(m.member_guid)
    )
