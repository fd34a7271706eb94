"""Events are written in the transaction of the change that they tell about, so that both are committed or neither is.

The function that writes a move calls :func:`record` with the ids that moved. This only notes the ids on the connection.
Right before the commit ``Database.transaction`` writes all events of the transaction, with two or three statements however many there are:

    work: UPDATE reconnections … RETURNING id ──▶ record ─┐
    work: UPDATE notifications … RETURNING id ──▶ record ─┤
                                         INSERT INTO events ──▶ COMMIT

**Order.** Events are written last, when the transaction holds the locks of all rows that it moved. So of two transactions that move one
reconnection the later one gets the larger ids.

Without ``EVENTS_URL`` nothing is noted and nothing is written.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from uuid import uuid4

import msgspec
from sqlalchemy import BigInteger, Text, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.events import Data, EventType, NotificationData, OutageData, ReconnectionData, UserData
from worker.policy.states import event_of
from worker.store.sql.moments import database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import events, notification_reconnections, notifications, reconnections

r, n, link = reconnections.c, notifications.c, notification_reconnections.c

#: The key under which a connection keeps the events to be written.
_NOTED = "reconnect_events"
#: Events of one statement.
_AT_ONCE = 2_000

#: One thing to tell: its type, and the reconnection or notification (its id), user (GUID) or institution (code) that it is about.
Noted = tuple[EventType, int | str]


def are_on(connection: AsyncConnection) -> bool:
    """Whether events are kept: ``EVENTS_URL`` is set."""
    return connection.info.get(_NOTED) is not None


def record(connection: AsyncConnection, move: str, after: StrEnum, ids: Iterable[int]) -> None:
    """Note the event, if any, of a move of this name to ``after`` (``policy/states.py``) for reconnections or notifications with these ids."""
    noted = connection.info.get(_NOTED)
    if noted is not None and (type_ := event_of(move, after)) is not None:
        noted += [(type_, id_) for id_ in ids]


def record_about(connection: AsyncConnection, type_: EventType, about: Iterable[int | str]) -> None:
    """Note an event that is not a move: a click, a new GUID, an opt-out, an outage.

    ``about``: ids of reconnections, GUIDs of users, or codes of institutions.
    """
    noted = connection.info.get(_NOTED)
    if noted is not None:
        noted += [(type_, key) for key in about]


class Outbox:
    """Writes the events of a transaction. Its statements are made once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        ids = rows.table("given", {"id": BigInteger()}).c
        self._reconnections = select(
            r.id, r.user_guid, r.member_guid, r.moved_to, r.institution_code, r.reason, r.outcome
        ).where(r.id == ids.id)
        self._notifications = select(n.id, n.user_guid, n.channel, n.step, n.outcome).where(n.id == ids.id)
        self._items = (
            select(link.notification_id, r.id, r.member_guid)
            .join(reconnections, r.id == link.reconnection_id)
            .where(link.notification_id == ids.id)
            .order_by(r.id)
        )
        texts = dict.fromkeys(("event_id", "type", "subject", "data"), Text())
        new = rows.table("given", {"place": BigInteger(), **texts}).c
        ordered = (
            select(*(new[name] for name in texts), database_now(), database_now()).where(true()).order_by(new.place)
        )
        self._insert = rows.insert(events).from_select([*texts, "created_at", "next_attempt_at"], ordered)

    def open(self, connection: AsyncConnection, *, are_kept: bool) -> None:
        """Called when a transaction begins. ``are_kept``: whether its events are written."""
        connection.info[_NOTED] = [] if are_kept else None

    async def write(self, connection: AsyncConnection) -> bool:
        """Write the events noted since :meth:`open`; returns whether there were any. To be called last in a transaction."""
        noted: Sequence[Noted] = connection.info[_NOTED]
        for start in range(0, len(noted), _AT_ONCE):
            await self._write(connection, noted[start : start + _AT_ONCE])
        return bool(noted)

    async def _write(self, connection: AsyncConnection, noted: Sequence[Noted]) -> None:
        facts: dict[tuple[str, int], tuple[str, Data]] = {}
        for kind, load in (("reconnection", self._of_reconnections), ("notification", self._of_notifications)):
            ids = {key for type_, key in noted if isinstance(key, int) and type_.startswith(kind)}
            if ids:
                given = self._rows.encode({"id": id_} for id_ in sorted(ids))
                facts |= {(kind, data[0]): data[1] for data in await load(connection, given)}
        rows = []
        for place, (type_, key) in enumerate(noted):
            subject, data = facts[type_.partition(".")[0], key] if isinstance(key, int) else _about(type_, key)
            rows.append(
                {
                    "place": place,
                    "event_id": f"evt_{uuid4().hex}",
                    "type": type_,
                    "subject": subject,
                    "data": msgspec.json.encode(data).decode(),
                }
            )
        await connection.execute(self._insert, {"given": self._rows.encode(rows)})

    async def _of_reconnections(self, connection: AsyncConnection, given: str) -> list[tuple[int, tuple[str, Data]]]:
        return [
            (
                row.id,
                (
                    row.user_guid,
                    ReconnectionData(
                        reconnection_id=row.id,
                        user_guid=row.user_guid,
                        member_guid=row.member_guid,
                        moved_to=row.moved_to,
                        institution_code=row.institution_code,
                        reason=row.reason,
                        outcome=row.outcome,
                    ),
                ),
            )
            for row in await connection.execute(self._reconnections, {"given": given})
        ]

    async def _of_notifications(self, connection: AsyncConnection, given: str) -> list[tuple[int, tuple[str, Data]]]:
        items: dict[int, list[tuple[int, str]]] = {}
        for message, id_, member_guid in await connection.execute(self._items, {"given": given}):
            items.setdefault(message, []).append((id_, member_guid))
        return [
            (
                row.id,
                (
                    row.user_guid,
                    NotificationData(
                        notification_id=row.id,
                        user_guid=row.user_guid,
                        channel=row.channel,
                        step=row.step,
                        outcome=row.outcome,
                        reconnection_ids=[id_ for id_, _ in items.get(row.id, ())],
                        member_guids=[guid for _, guid in items.get(row.id, ())],
                    ),
                ),
            )
            for row in await connection.execute(self._notifications, {"given": given})
        ]


def _about(type_: EventType, key: str) -> tuple[str, Data]:
    if type_ is EventType.OPTED_OUT:
        return key, UserData(user_guid=key)
    return f"outage:{key}"[:128], OutageData(institution_code=key)
