"""Unreadable values in columns of applications: counted by column for `doctor` and `status`, and listed for one user.

Only counts and columns are shown, never a value: a column may hold anything by mistake, such as a secret.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.columns import channel_of, statuses_as_written
from worker.policy.zones import zone_named
from worker.settings.values import CONNECTION_STATUSES
from worker.store.queries.sampling import Source, source_of
from worker.store.selection import may_be_broken
from worker.store.sql.application import device_kind, is_guid, is_set, status_text, unreadable
from worker.store.sql.database import Database
from worker.store.sql.tables import devices, members, users

m, u, d = members.c, users.c, devices.c

#: At most so many different values of a column are read, the most frequent first.
_DIFFERENT = 5_000
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_.@].*)?", re.DOTALL)

_STATUS = status_text(m.connection_status)
_NO_GUID = or_(~is_guid(m.member_guid), ~is_guid(m.user_guid))
#: The column, what it holds, the condition for that, and the effect.
_OF_MEMBERS: tuple[tuple[str, str, ColumnElement[bool], str], ...] = (
    ("members.token_expires_at", "no moment", unreadable(m.token_expires_at), "counts as empty"),
    ("members.token_revoked_at", "no moment", unreadable(m.token_revoked_at), "counts as empty"),
    ("members.error_code", "no number", unreadable(m.error_code), "counts as empty"),
    ("members.is_oauth", "neither true nor false", unreadable(m.is_oauth), "counts as empty"),
    ("members.connection_status", "no text", unreadable(m.connection_status), "counts as empty"),
    (
        "members.connection_status",
        "no status of MX",
        and_(may_be_broken(), _STATUS.is_not(None), _STATUS.not_in(statuses_as_written(CONNECTION_STATUSES))),
        "picks nobody",
    ),
    ("members.member_guid, user_guid", "no GUID", and_(may_be_broken(), _NO_GUID), "is never picked"),
)
_OF_USERS: tuple[tuple[str, str, ColumnElement[bool], str], ...] = (
    ("users.email", "no text", unreadable(u.email), "counts as empty"),
    ("users.opted_out_at", "no moment", unreadable(u.opted_out_at), "still means silence"),
    ("users.channel", "no text", unreadable(u.channel), "email first"),
    ("users.timezone", "no text", unreadable(u.timezone), "counts as empty"),
    ("users.locale", "no text", unreadable(u.locale), "counts as empty"),
)
_OF_DEVICES: tuple[tuple[str, str, ColumnElement[bool], str], ...] = (
    ("devices.device_kind", "no push service", device_kind(d.device_kind).is_(None), "never told"),
    ("devices.device_address", "no text", unreadable(d.device_address), "never told"),
)
#: Columns whose words Python reads: the column, what it holds, the check of a word, and the effect.
_WORDS: tuple[tuple[Any, str, Callable[[str], bool], str], ...] = (
    (
        u.timezone,
        "no time zone",
        lambda word: zone_named(word) is not None,
        "told when it is day in every zone of the country, or in FALLBACK_TIME_ZONES",
    ),
    (u.channel, "no channel", lambda word: channel_of(word) is not None, "email first"),
    (u.locale, "no language", lambda word: _LANGUAGE.fullmatch(word) is not None, "DEFAULT_LOCALE"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NotUnderstood:
    """The number of rows with an unreadable value in one column."""

    #: Example: ``users.timezone``.
    column: str
    #: What it holds. Example: ``no time zone``.
    what: str
    count: int
    #: The effect. Example: ``counts as empty``.
    effect: str
    #: Whether the count is an estimate, from a sample of a large table.
    about: bool = False

    def __str__(self) -> str:
        about = "about " if self.about else ""
        return f"{self.column}: {about}{self.count} hold {self.what} ({self.effect})"


class UnreadableStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def counts(self) -> list[NotUnderstood]:
        """How many rows there are of each kind; kinds without rows are left out.

        On PostgreSQL only a sample of a table with more than 20,000 rows is read. A value in one of ten thousand rows may be missed.
        """

        async def work(connection: AsyncConnection) -> list[NotUnderstood]:
            rows = self._database.rows
            sources = [await source_of(connection, rows, table, true()) for table in (users, devices, members)]
            return await _count_unreadable(connection, sources)

        return await self._database.transaction(work)

    async def of_user(self, user_guid: str) -> list[NotUnderstood]:
        """The same for one user and their devices. A member's unreadable columns are part of its ``MemberFacts``."""

        async def work(connection: AsyncConnection) -> list[NotUnderstood]:
            return await _count_unreadable(connection, [Source(users), Source(devices)], user_guid)

        return await self._database.transaction(work)


async def _count_unreadable(
    connection: AsyncConnection, sources: Sequence[Source], user_guid: str | None = None
) -> list[NotUnderstood]:
    """Unreadable values in these sources: users, devices and members, in this order; later ones may be missing."""
    not_understood = []

    def add(source: Source, column: str, what: str, effect: str, counted: int) -> None:
        if counted:
            count = source.scaled(counted)
            not_understood.append(
                NotUnderstood(column=column, what=what, count=count, effect=effect, about=source.is_sample)
            )

    for source, kinds in zip(sources, (_OF_USERS, _OF_DEVICES, _OF_MEMBERS), strict=False):
        conditions = (source.instead_of(condition) for _, _, condition, _ in kinds)
        query = select(*(func.count(case((condition, 1))) for condition in conditions)).select_from(source.rows)
        of_user = [source.rows.c.user_guid == user_guid] if user_guid else []
        row = (await connection.execute(query.where(*of_user))).one()
        for (column, what, _, effect), counted in zip(kinds, row, strict=True):
            add(source, column, what, effect, counted)
    of_users = sources[0]
    for plain, what, is_understood, effect in _WORDS:
        of_user = [of_users.rows.c.user_guid == user_guid] if user_guid else []
        number, column = func.count().label("number"), of_users.rows.c[plain.name]
        words = select(column, number).where(is_set(column), *of_user).group_by(column).order_by(number.desc())
        rows = await connection.execute(words.limit(_DIFFERENT))
        counted = sum(number for word, number in rows if word is not None and not is_understood(word))
        add(of_users, f"users.{plain.name}", what, effect, counted)
    return sorted(not_understood, key=lambda kind: (kind.column, kind.what))
