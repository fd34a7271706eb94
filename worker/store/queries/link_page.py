"""The banks of a link in their current state, for the page and for a press of its button. Each read is one or two indexed statements."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, String, and_, bindparam, exists, func, or_, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.links import BankState, state_of_bank
from worker.store.links import LinkAt
from worker.store.sql.database import Database
from worker.store.sql.fast_statements import FastStatement
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import links, members, notification_reconnections, reconnections, state_literal, users

#: A page shows no more banks than a message names.
MOST_SHOWN = 10

k, r, u, item = links.c, reconnections.c, users.c, notification_reconnections.c


class LinkNow(LinkAt, frozen=True, kw_only=True):
    """A link, and its user."""

    expires_at: datetime
    #: The user's columns, as the application wrote them.
    locale: str | None
    timezone: str | None

    @property
    def leads_on(self) -> bool:
        """Whether it has not expired yet."""
        return self.now < self.expires_at


class BankNow(msgspec.Struct, frozen=True, kw_only=True):
    """One bank of a link, with the reconnection that is shown for it."""

    reconnection_id: int
    member_guid: str
    user_guid: str
    #: The GUID to ask MX for.
    asked_guid: str
    name: str
    institution_code: str | None
    epoch: int
    state: str
    reason: str
    broken_since: datetime
    attempts: int
    closed_at: datetime | None
    outcome: str | None

    def stands(self, now: datetime) -> BankState:
        """The state that the customer is shown."""
        return state_of_bank(self.state, reason=self.reason, since=self.broken_since, now=now)


class LinkReads:
    """Its statements, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        columns = (k.id, k.user_guid, k.notification_id, k.created_at, k.expires_at, u.locale, u.timezone)
        self._find = FastStatement(
            rows,
            select(*columns, database_now().label("now"))
            .outerjoin(users, u.user_guid == k.user_guid)
            .where(k.token_hash == bindparam("token_hash", type_=String())),
        )
        self._named = FastStatement(rows, _named_themselves().limit(MOST_SHOWN))
        self._one_named = FastStatement(rows, _named_themselves().where(r.id == _NAMED, r.closed_at.is_(None)))
        of_message, of_user = rows.among(_first.c.id, _named_by_message()), rows.among(_first.c.id, _open_or_closed())
        # Which reconnections may be shown in place of a named one, or of one that closed since the link was made. An older one may not,
        # because retention may delete it.
        newer, since = (
            _newest.c.id >= _first_named(),
            or_(_newest.c.closed_at.is_(None), _newest.c.closed_at >= _MADE_AT),
        )
        self._of_message = FastStatement(rows, _banks(newer, of_message).limit(MOST_SHOWN))
        self._of_user = FastStatement(rows, _banks(since, of_user).limit(MOST_SHOWN))
        its_member = rows.among(_first.c.member_guid, _members_of_message())
        self._one_of_message = FastStatement(rows, _banks(newer, _first.c.id == _NAMED, its_member))
        self._one_of_user = FastStatement(rows, _banks(since, _first.c.id == _NAMED))

    async def find(self, connection: AsyncConnection, token_hash: str) -> LinkNow | None:
        """The link with this token, expired ones too."""
        row = await self._find.first(connection, {"token_hash": token_hash})
        return None if row is None else LinkNow(**row._asdict())

    async def banks(self, connection: AsyncConnection, link: LinkAt) -> list[BankNow]:
        """The banks of the link, ten at most, open ones first.

        - Link of a message: the reconnections that the message named.
        - Link of a user: reconnections that are open, and those that closed since the link was made.

        The newest reconnection of a member is shown instead of an older one. If it is open, it is what the user has to do now; if it is closed,
        it tells the bank's state since.
        """
        if link.notification_id is None:
            return await self._read(connection, self._of_user, link)
        few = await self._read(connection, self._named, link)
        # The usual case: the named reconnections are open, so each is shown itself. The query joins fewer tables, so it is planned faster.
        if 0 < len(few) < MOST_SHOWN and all(bank.closed_at is None for bank in few):
            return few
        return await self._read(connection, self._of_message, link)

    async def bank(self, connection: AsyncConnection, link: LinkAt, reconnection_id: int) -> BankNow | None:
        """The bank of this reconnection, as in :meth:`banks`; ``None`` if the link is not about it."""
        of_message = link.notification_id is not None
        banks = await self._read(connection, self._one_named, link, named=reconnection_id) if of_message else []
        if not banks:
            statement = self._one_of_message if of_message else self._one_of_user
            banks = await self._read(connection, statement, link, named=reconnection_id)
        return banks[0] if banks else None

    async def _read(
        self, connection: AsyncConnection, statement: FastStatement, link: LinkAt, **extra: object
    ) -> list[BankNow]:
        parameters = {"user_guid": link.user_guid, "notification_id": link.notification_id, "made_at": link.created_at}
        return [bank_of(row) for row in await statement.rows(connection, parameters | extra)]


class LinkPageStore:
    """Reads, never writes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads = LinkReads(database.rows)

    async def read(self, token_hash: str) -> tuple[LinkNow, Sequence[BankNow]] | None:
        """A valid link and its banks; ``None`` if it expired or never existed. Both cases cost the same one statement."""

        async def work(connection: AsyncConnection) -> tuple[LinkNow, Sequence[BankNow]] | None:
            link = await self._reads.find(connection, token_hash)
            if link is None or not link.leads_on:
                return None
            return link, await self._reads.banks(connection, link)

        return await self._database.apart(work)


_first, _newest, _shown = (reconnections.alias(name) for name in ("first", "newest", "shown"))
_USER: ColumnElement[str] = bindparam("user_guid", type_=String())
_NOTIFICATION: ColumnElement[int] = bindparam("notification_id", type_=BigInteger())
_NAMED: ColumnElement[int] = bindparam("named", type_=BigInteger())
_MADE_AT: ColumnElement[datetime] = bindparam("made_at", type_=Moment())


def _banks(may_stand: ColumnElement[bool], *conditions: ColumnElement[bool]) -> Any:
    """For each reconnection that satisfies ``conditions``: the one to show for its member, among those that ``may_stand`` for it (it may be itself).

    That is the open one (there is at most one), else the one that was opened last. A cancelled notice does not tell whether the bank works,
    so it is shown only if there is nothing else. The plain SQL is DISTINCT ON. This looks up each of at most ten rows in the index of
    members instead.
    """
    is_void = and_(_newest.c.state == state_literal("cancelled"), _newest.c.reason == state_literal("expires_soon"))
    newest = (
        select(_newest.c.id)
        .where(_newest.c.member_guid == _first.c.member_guid, _newest.c.user_guid == _first.c.user_guid, may_stand)
        .order_by(_newest.c.closed_at.is_not(None), is_void, _newest.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    stands = select(newest.label("id")).where(_first.c.user_guid == _USER, *conditions).distinct().subquery("stands")
    return (
        select(*columns_of_bank(_shown.c))
        .select_from(stands)
        .join(_shown, _shown.c.id == stands.c.id)
        .outerjoin(members, members.c.member_guid == _shown.c.member_guid)
        .order_by(*_order(_shown.c))
    )


def _named_themselves() -> Any:
    """The reconnections that a message named, each shown itself. While they are open, :func:`_banks` gives the same."""
    return (
        select(*columns_of_bank(r))
        .select_from(notification_reconnections)
        .join(reconnections, r.id == item.reconnection_id)
        .outerjoin(members, members.c.member_guid == r.member_guid)
        .where(item.notification_id == _NOTIFICATION, r.user_guid == _USER)
        .order_by(*_order(r))
    )


def columns_of_bank(s: Any, *, name: ColumnElement[Any] = members.c.institution_name) -> tuple[ColumnElement[Any], ...]:
    """The columns that :func:`bank_of` reads. ``s``: the columns of ``reconnections``. ``name``: the institution's name."""
    return (
        s.id.label("reconnection_id"),
        s.member_guid,
        s.user_guid,
        func.coalesce(s.moved_to, s.member_guid).label("asked_guid"),
        name.label("name"),
        s.institution_code,
        s.epoch,
        s.state,
        s.reason,
        s.broken_since,
        s.attempts,
        s.closed_at,
        s.outcome,
    )


def bank_of(row: Any) -> BankNow:
    """The bank in a row with :func:`columns_of_bank`; other columns are ignored."""
    values = {field: getattr(row, field) for field in BankNow.__struct_fields__}
    return BankNow(**values | {"name": row.name or row.institution_code or ""})


def _order(s: Any) -> tuple[ColumnElement[Any], ...]:
    return s.closed_at.is_not(None), s.state != "reconnected", s.broken_since, s.id


def _named_by_message() -> Any:
    return select(item.reconnection_id).where(item.notification_id == _NOTIFICATION)


def _first_named() -> ColumnElement[int]:
    """The first reconnection of a member that the message named."""
    named = reconnections.alias("named")
    return (
        select(func.min(named.c.id))
        .join(notification_reconnections, item.reconnection_id == named.c.id)
        .where(item.notification_id == _NOTIFICATION, named.c.member_guid == _first.c.member_guid)
        .scalar_subquery()
    )


def _members_of_message() -> Any:
    """The members that a message named. The page may have shown a newer reconnection than the named one."""
    named = select(r.member_guid).join(notification_reconnections, item.reconnection_id == r.id)
    return named.where(item.notification_id == _NOTIFICATION)


def _open_or_closed() -> Any:
    """A user's open reconnections, and the newest of each member that closed since the link was made."""
    later = reconnections.alias("later")
    is_newest = ~exists().where(later.c.member_guid == r.member_guid, later.c.id > r.id)
    members_of_user = select(members.c.member_guid).where(members.c.user_guid == _USER)
    opened = select(r.id).where(r.user_guid == _USER, r.closed_at.is_(None))
    return union(opened, select(r.id).where(r.member_guid.in_(members_of_user), r.closed_at >= _MADE_AT, is_newest))
