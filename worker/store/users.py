"""The users behind reconnections: how they can be reached, and when they were last written to."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Text, and_, bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.channel_choice import Contact
from worker.policy.columns import channel_of
from worker.policy.states import LIVE, NotificationState
from worker.store.sql.application import is_set
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import devices, notifications, users

#: A channel that refused a message for good is not used for this time, if there is another.
FAILURE_COUNTS_FOR = timedelta(days=1)
#: After this time the messenger is tried again for a user whom it could not reach: nothing tells us when it gets an address.
MESSENGER_AGAIN = timedelta(days=30)


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user, with what decides whether and how they are written to."""

    user_guid: str
    contact: Contact
    locale: str | None
    timezone: str | None
    #: When messages that may have arrived were sent, within the span that was asked for.
    sent: tuple[datetime, ...]
    #: Whether a message to this user is under way already.
    message_under_way: bool
    #: Channels on which a recent message to this user was refused for good.
    failed_channels: frozenset[str] = frozenset()
    #: Devices, as (kind, address), that recently refused a message to this user, or that are gone according to the push service.
    failed_devices: frozenset[tuple[str, str]] = frozenset()


_USER = (
    users.c.channel,
    users.c.email,
    users.c.refused_email,
    is_set(users.c.opted_out_at),
    users.c.locale,
    users.c.timezone,
    users.c.user_guid.label("messenger"),
    func.coalesce(users.c.messenger_refused_at > database_now(-MESSENGER_AGAIN.total_seconds()), False),
)


#: For a GUID that is not among the rows, because the database returns it in another form.
_NOBODY = (None,) * len(_USER)


class UserStore:
    """Loads users by the batch."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        given = rows.table("given", {"user_guid": Text()})
        is_usable_device = and_(devices.c.user_guid == given.c.user_guid, ~is_set(devices.c.disabled_at))
        #: A row for each device, and one row for a user without devices. Devices may be stored before their user is.
        self._users = (
            select(given.c.user_guid, *_USER, devices.c.device_kind, devices.c.device_address)
            .select_from(given)
            .outerjoin(users, users.c.user_guid == given.c.user_guid)
            .outerjoin(devices, is_usable_device)
            .order_by(devices.c.id.desc())  # the newest first: an old phone may no longer be used
        )
        failed_states = (NotificationState.FAILED, NotificationState.SUPPRESSED)
        sent_states = (NotificationState.SENT, NotificationState.UNKNOWN)
        self._history = (
            select(
                notifications.c.user_guid,
                notifications.c.state,
                notifications.c.channel,
                notifications.c.sent_at,
                devices.c.device_kind,
                devices.c.device_address,
            )
            .join(given, notifications.c.user_guid == given.c.user_guid)
            .outerjoin(devices, devices.c.id == notifications.c.device_id)
            .where(
                or_(
                    notifications.c.state.in_(LIVE),
                    notifications.c.state.in_(sent_states)
                    & (notifications.c.sent_at > bindparam("since", type_=Moment())),
                    notifications.c.state.in_(failed_states)
                    & (notifications.c.outcome_at > database_now(-FAILURE_COUNTS_FOR.total_seconds())),
                )
            )
        )

    async def load(self, connection: AsyncConnection, guids: Collection[str], *, since: datetime) -> dict[str, User]:
        """The users with these GUIDs; a user without a row cannot be reached on any channel."""
        given = self._rows.encode({"user_guid": guid} for guid in sorted(guids))
        user_columns: dict[str, tuple[Any, ...]] = {}
        reachable: dict[str, list[tuple[str, str]]] = {}
        for guid, *user, kind, address in await connection.execute(self._users, {"given": given}):
            user_columns[guid] = tuple(user)
            if kind is not None and address is not None:
                reachable.setdefault(guid, []).append((kind, address))
        sent: dict[str, list[datetime]] = {}
        failed: dict[str, set[str]] = {}
        tried: dict[str, set[tuple[str, str]]] = {}
        under_way = set()
        for message in await connection.execute(self._history, {"given": given, "since": since}):
            if message.state in LIVE:
                under_way.add(message.user_guid)
            elif message.device_kind is not None:
                tried.setdefault(message.user_guid, set()).add((message.device_kind, message.device_address))
            elif message.state == NotificationState.SUPPRESSED:
                pass  # its address is stored as refused
            elif message.state == NotificationState.FAILED:
                failed.setdefault(message.user_guid, set()).add(message.channel)
            else:
                sent.setdefault(message.user_guid, []).append(message.sent_at)
        loaded = {}
        for guid in guids:
            channel, email, refused_email, opted_out, locale, timezone, messenger, refused = user_columns.get(
                guid, _NOBODY
            )
            loaded[guid] = User(
                user_guid=guid,
                contact=Contact(
                    preferred=None if channel is None else channel_of(channel),
                    email=email,
                    refused_email=refused_email,
                    opted_out=bool(opted_out),
                    devices=tuple(reachable.get(guid, ())),
                    messenger=messenger,
                    messenger_refused=bool(refused),
                ),
                locale=locale,
                timezone=timezone,
                sent=tuple(sent.get(guid, ())),
                message_under_way=guid in under_way,
                failed_channels=frozenset(failed.get(guid, ())),
                failed_devices=frozenset(tried.get(guid, ())),
            )
        return loaded
