"""Writes whole histories as the stages do: a reconnection, its windows, messages, links and clicks."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select

from worker.store.sql.tables import (
    clicks,
    links,
    members,
    metadata,
    notification_reconnections,
    notifications,
    reconnections,
    users,
    windows,
)

#: The real time: whether a link has expired is decided by the database's clock.
NOW = datetime.now(UTC).replace(microsecond=0)


def ago(days: float) -> datetime:
    """The moment ``days`` days before :data:`NOW`."""
    return NOW - timedelta(days=days)


@dataclass
class Histories:
    """Collects rows; :meth:`write` writes all of them in one transaction."""

    rows: dict[Any, list[dict[str, Any]]] = field(default_factory=dict)
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def _add(self, table: Any, **values: Any) -> int:
        id_ = next(self.ids)
        self.rows.setdefault(table, []).append({"id": id_} | values)
        return id_

    def user(self, user: str, *names: str, **columns: Any) -> None:
        """Add a user and its members. They are `DENIED` by default."""
        self.rows.setdefault(users, []).append({"user_guid": f"USR-{user}", "email": f"{user}@mail.example"})
        member = {
            "user_guid": f"USR-{user}",
            "connection_status": "DENIED",
            "token_revoked_at": None,
            "token_expires_at": None,
        }
        self.rows.setdefault(members, []).extend(
            {"member_guid": f"MBR-{name}"} | member | columns for name in names or (user,)
        )

    def reconnection(
        self,
        name: str,
        opened: float,
        closed: float | None = None,
        *,
        user: str | None = None,
        state: str = "",
        **columns: Any,
    ) -> int:
        """Add a reconnection; ``opened`` and ``closed`` are days before NOW. By default an open one is `due`, an ended one `reconnected`."""
        usual = {
            "user_guid": f"USR-{user or name}",
            "institution_code": "alder",
            "reason": "connection_status",
            "broken_since": ago(opened),
            "outcome": "not_back",
            "reopen_at": None,
            "notified_at": None,
            "next_attempt_at": None if closed is not None else ago(opened),
        }
        return self._add(
            reconnections,
            member_guid=f"MBR-{name}",
            opened_at=ago(opened),
            closed_at=None if closed is None else ago(closed),
            **usual | {"state": state or ("due" if closed is None else "reconnected")} | columns,
        )

    def message(
        self,
        user: str,
        about: Iterable[int],
        sent: float,
        *,
        state: str = "sent",
        link_days: float | None = None,
        step: int = 0,
    ) -> int:
        """Add a message about these reconnections, with a window for each, and with a link if ``link_days`` says how long it works."""
        id_ = self._add(
            notifications, user_guid=f"USR-{user}", channel="email", step=step, state=state, message_key=f"key-{next(self.ids)}",
            created_at=ago(sent), sent_at=ago(sent), outcome_at=ago(sent), outcome=state,
        )  # fmt: skip
        for of in about:
            window = self._add(
                windows, reconnection_id=of, epoch=next(self.ids), member_guid=f"MBR-{user}", fetched_at=ago(sent),
                superseded_at=ago(sent), uri=None, click_id=None,
            )  # fmt: skip
            self.rows.setdefault(notification_reconnections, []).append(
                {"notification_id": id_, "reconnection_id": of, "window_id": window, "step": step, "channel": "email"}
            )
        if link_days is not None:
            self.link(user, sent, days=link_days, of=id_)
        return id_

    def link(self, user: str, made: float, *, days: float, of: int | None = None) -> int:
        """Add a link, either in the message ``of`` or without a message."""
        return self._add(
            links, token_hash=f"hash-{next(self.ids)}", user_guid=f"USR-{user}", notification_id=of,
            created_at=ago(made), expires_at=ago(made - days),
        )  # fmt: skip

    def click(self, link: int, of: int, at: float) -> None:
        """Add a click, for which a window was minted."""
        id_ = self._add(
            clicks,
            link_id=link,
            reconnection_id=of,
            nonce_hash=f"n{next(self.ids)}",
            clicked_at=ago(at),
            minted=True,
            outcome="window",
        )
        self._add(
            windows, reconnection_id=of, epoch=None, member_guid="MBR-x", fetched_at=ago(at), superseded_at=ago(at), uri=None, click_id=id_
        )  # fmt: skip

    async def write(self, database: Any) -> None:
        """Write the collected rows."""
        async with database.engine.begin() as connection:
            for table in metadata.sorted_tables:
                if rows := self.rows.pop(table, None):
                    await connection.execute(insert(table), rows)


async def everything(database: Any) -> dict[str, list[Any]]:
    """All rows of our tables, by the table's name."""
    async with database.engine.begin() as connection:
        return {
            table.name: list((await connection.execute(select(table))).mappings()) for table in metadata.sorted_tables
        }


async def dangling(database: Any) -> list[str]:
    """The foreign keys that refer to a missing row. SQLite does not enforce them."""
    rows = await everything(database)
    found = []
    for table in metadata.sorted_tables:
        for key in table.foreign_keys:
            there = {row[key.column.name] for row in rows[key.column.table.name]}
            found += [
                f"{table.name}.{key.parent.name}"
                for row in rows[table.name]
                if row[key.parent.name] not in there | {None}
            ]
    return found
