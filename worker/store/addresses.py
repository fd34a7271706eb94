"""What the worker writes into ``users`` and ``devices``: which addresses are suppressed, and which users want no messages."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Text, bindparam, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.channel_choice import EMAIL, MESSENGER, ONE_ADDRESS
from worker.policy.events import EventType
from worker.policy.states import NotificationState
from worker.store.events.recording import record_about
from worker.store.notifications.transitions import NotificationTransitions
from worker.store.sql.application import device_kind, is_set, plain_text
from worker.store.sql.database import Database
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import devices, notifications, state_literal, users

n, u = notifications.c, users.c

#: Notifications that one query reads, when bounces are traced to them.
_BATCH_SIZE = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class MailUser:
    """A user's address, and the address that was refused."""

    user_guid: str
    email: str | None
    refused_email: str | None

    def __repr__(self) -> str:
        return f"MailUser({self.user_guid})"


class RefusedAddresses:
    """Suppresses addresses that a mail server, a push service or the messenger refused, in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        refused = rows.table("given", {"user_guid": Text(), "address": Text(), "channel": Text()}).c
        self._refuse_mailbox = (
            update(users)
            .where(u.user_guid == refused.user_guid, plain_text(u.email) == refused.address)
            .values(refused_email=refused.address, refused_why="the mail server, when the mail was handed over")
        )
        self._refuse_device = (
            update(devices)
            .where(
                devices.c.user_guid == refused.user_guid,
                device_kind(devices.c.device_kind) == refused.channel,
                plain_text(devices.c.device_address) == refused.address,
            )
            .values(disabled_at=bindparam("now", type_=Moment()))
        )
        guids = rows.table("given", {"user_guid": Text()}).c
        self._refuse_messenger = (
            update(users)
            .where(u.user_guid == guids.user_guid)
            .values(messenger_refused_at=bindparam("now", type_=Moment()))
        )
        self._trust_messenger = update(users).where(u.user_guid == guids.user_guid).values(messenger_refused_at=None)
        self._trust_mailboxes = (
            update(users)
            .where(u.user_guid == guids.user_guid, u.refused_email == plain_text(u.email))
            .values(refused_email=None, refused_why=None)
        )
        ids = rows.table("given", {"id": BigInteger()}).c
        self._trust_devices = update(devices).where(devices.c.id == ids.id).values(disabled_at=None)

    async def _execute(
        self, connection: AsyncConnection, statement: Any, given: list[dict[str, Any]], **more: Any
    ) -> None:
        if given:
            await connection.execute(statement, {"given": self._rows.encode(given), **more})

    async def refuse(self, connection: AsyncConnection, refused: Iterable[Mapping[str, Any]], now: datetime) -> None:
        """Suppress these mailboxes and devices (user, address, channel). An address that the user has replaced since is skipped."""
        rows = [dict(row) for row in refused]
        await self._execute(connection, self._refuse_mailbox, [row for row in rows if row["channel"] == EMAIL])
        of_messenger = [{"user_guid": row["user_guid"]} for row in rows if row["channel"] == MESSENGER]
        await self._execute(connection, self._refuse_messenger, of_messenger, now=now)
        of_devices = [row for row in rows if row["channel"] not in ONE_ADDRESS]
        await self._execute(connection, self._refuse_device, of_devices, now=now)

    async def trust(
        self, connection: AsyncConnection, *, channel: str, users: Iterable[str], devices: Iterable[int]
    ) -> None:
        """Undo ``refuse`` for these users' addresses on this channel and for these devices: the cause of the refusal was ours."""
        statement = {EMAIL: self._trust_mailboxes, MESSENGER: self._trust_messenger}.get(channel)
        if statement is not None:
            await self._execute(connection, statement, [{"user_guid": guid} for guid in users])
        await self._execute(connection, self._trust_devices, [{"id": id_} for id_ in devices])


class AddressStore:
    """Reads and writes ``refused_email`` and ``opted_out_at``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = rows = database.rows
        email = plain_text(u.email)
        guids = rows.table("given", {"user_guid": Text()})
        self._by_guid = select(u.user_guid, u.email, u.refused_email).join(guids, u.user_guid == guids.c.user_guid)
        addresses = rows.table("given", {"address": Text()})
        may_have_arrived = n.state.in_(
            (state_literal(NotificationState.SENT), state_literal(NotificationState.UNKNOWN))
        )
        self._by_address = (
            select(u.user_guid, u.email, u.refused_email)
            # IN, not a join: ``users.email`` has no index. With IN the table is read once, and each row is looked up in a hash.
            .where(func.lower(email).in_(select(addresses.c.address)))
            .where(exists().where(n.user_guid == u.user_guid, n.channel == EMAIL, may_have_arrived))
        )
        refused = rows.table("given", {"user_guid": Text(), "email": Text(), "why": Text()}).c
        self._refuse = (
            update(users)
            .where(
                u.user_guid == refused.user_guid,
                email == refused.email,
                or_(u.refused_email.is_(None), u.refused_email != email),
            )
            .values(refused_email=email, refused_why=refused.why)
            .returning(u.user_guid)
        )
        self._notifications = rows.part(NotificationTransitions)
        update_user = update(users).where(u.user_guid == guids.c.user_guid).returning(u.user_guid)
        willing = update_user.where(~is_set(u.opted_out_at))
        self._opt_out = willing.values(opted_out_at=bindparam("now", type_=Moment()))
        self._opt_in = update_user.values(opted_out_at=None)
        self._known = select(u.user_guid).join(guids, u.user_guid == guids.c.user_guid)

    async def mails(self) -> AsyncIterator[list[tuple[int, str, str]]]:
        """All notifications by email, in batches, the newest first: id, user, message key."""
        last_id = None
        while True:
            query = select(n.id, n.user_guid, n.message_key).where(n.channel == EMAIL).order_by(n.id.desc())
            batch = await self._tuples(query.where(n.id < last_id) if last_id is not None else query)
            if not batch:
                return
            yield batch
            last_id = batch[-1][0]

    async def _tuples(self, query: Any) -> list[tuple[int, str, str]]:
        async def work(connection: AsyncConnection) -> list[tuple[int, str, str]]:
            rows = await connection.execute(query.limit(_BATCH_SIZE))
            return [(row[0], row[1], row[2]) for row in rows]

        return await self._database.transaction(work)

    async def users(self, guids: Iterable[str]) -> dict[str, MailUser]:
        """The users with these GUIDs, by GUID."""
        given = self._rows.encode({"user_guid": guid} for guid in sorted(set(guids)))

        async def work(connection: AsyncConnection) -> dict[str, MailUser]:
            rows = await connection.execute(self._by_guid, {"given": given})
            return {row.user_guid: MailUser(**row._mapping) for row in rows}  # noqa: SLF001 - SQLAlchemy's public name for it

        return await self._database.transaction(work)

    async def users_at(self, addresses: Iterable[str]) -> list[MailUser]:
        """The users with one of these addresses (in lower case) to whom we have sent a mail."""
        given = self._rows.encode({"address": address} for address in sorted(set(addresses)))

        async def work(connection: AsyncConnection) -> list[MailUser]:
            rows = await connection.execute(self._by_address, {"given": given})
            return [MailUser(**row._mapping) for row in rows]  # noqa: SLF001 - as above

        return await self._database.transaction(work)

    async def refuse(
        self, refused: Mapping[str, tuple[MailUser, str]], *, bounced: Iterable[tuple[int, str]] = (), now: datetime
    ) -> set[str]:
        """Suppress addresses that users still have, and note on notifications (id, code) that they bounced.

        ``refused``: by user, the address and why it is suppressed. Returns the users whose address was not suppressed before.
        """
        given = self._rows.encode(
            {"user_guid": guid, "email": user.email, "why": why} for guid, (user, why) in sorted(refused.items())
        )

        async def work(connection: AsyncConnection) -> set[str]:
            await self._notifications.note_bounces(connection, bounced, now)
            return set((await connection.execute(self._refuse, {"given": given})).scalars())

        return await self._database.transaction(work)

    async def opt_out(self, guids: Iterable[str], *, now: datetime) -> set[str]:
        """Send no more messages to these users. Returns those that exist. A user who had opted out before keeps the date."""
        given = self._rows.encode({"user_guid": guid} for guid in sorted(set(guids)))

        async def work(connection: AsyncConnection) -> set[str]:
            changed = (await connection.execute(self._opt_out, {"given": given, "now": now})).scalars().all()
            record_about(connection, EventType.OPTED_OUT, sorted(changed))
            return set((await connection.execute(self._known, {"given": given})).scalars())

        return await self._database.transaction(work)

    async def opt_in(self, guids: Iterable[str]) -> set[str]:
        """Send messages to these users again. Returns those that exist."""
        given = self._rows.encode({"user_guid": guid} for guid in sorted(set(guids)))

        async def work(connection: AsyncConnection) -> set[str]:
            return set((await connection.execute(self._opt_in, {"given": given})).scalars())

        return await self._database.transaction(work)
