"""Storing hints when they arrive."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Integer, String, Text, case, literal, null, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.hint_states import HintState
from worker.store.sql.moments import Moment, database_now
from worker.store.sql.rows import Rows
from worker.store.sql.tables import hints

h = hints.c

#: The types that MX documents.
KINDS = ("CONNECTION_STATUS", "MEMBER", "AGGREGATION", "CONSENT_REVOKED", "CONSENT_EXPIRING")
#: The kind of a body that is not a JSON object, and of one without a readable ``type``.
UNREADABLE, OTHER = "UNREADABLE", "OTHER"
#: The outcomes of hints for which no member is read: the body is not a JSON object, or it names neither a member nor a user.
NOT_READABLE, NO_MEMBER = "not_readable", "no_member"


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a webhook. Two webhooks with the same content have the same key."""

    #: SHA-256 of the content, hexadecimal.
    key: str
    #: MX's ``type``: one of :data:`KINDS`, or one that MX does not document.
    kind: str
    action: str | None = None
    connection_status: str | None = None
    member_guid: str | None = None
    user_guid: str | None = None


class Arrivals:
    """Stores hints, in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._add = _add_statement(rows)

    async def add(self, connection: AsyncConnection, new_hints: Sequence[Hint]) -> int:
        """Store hints with one statement; returns for how many of them a member is to be read. The same hint twice is one row."""
        times = Counter(hint.key for hint in new_hints)
        # Sorted by key, so that two processes cannot deadlock.
        ordered = sorted({hint.key: hint for hint in new_hints}.values(), key=lambda hint: hint.key)
        rows = [_row(hint, times[hint.key]) for hint in ordered]
        await connection.execute(self._add, {"given": self._rows.encode(rows)})
        return sum(row["state"] == HintState.DUE for row in rows)


def _row(hint: Hint, times: int) -> dict[str, Any]:
    names_somebody = hint.member_guid is not None or hint.user_guid is not None
    unused = NOT_READABLE if hint.kind == UNREADABLE else NO_MEMBER
    return {
        "key": hint.key,
        "kind": hint.kind,
        "action": hint.action,
        "connection_status": hint.connection_status,
        "member_guid": hint.member_guid,
        "user_guid": hint.user_guid,
        "times": times,
        "state": HintState.DUE if names_somebody else HintState.UNUSED,
        "outcome": None if names_somebody else unused,
    }


def _add_statement(rows: Rows) -> Any:
    text = ("key", "kind", "action", "connection_status", "member_guid", "user_guid", "state", "outcome")
    given = rows.table("given", {**dict.fromkeys(text, Text()), "times": Integer()}).c
    values = {
        **{name: given[name] for name in (*text, "times")},
        "received_at": database_now(),
        "last_received_at": database_now(),
        "next_attempt_at": case((given.state == str(HintState.DUE), database_now()), else_=null().cast(Moment())),
    }
    insert = rows.insert(hints).from_select(list(values), select(*values.values()).where(true()))
    new, is_leased = insert.excluded, h.state == HintState.LEASED
    return insert.on_conflict_do_update(
        index_elements=[h.key],
        set_={
            "last_received_at": new.last_received_at,
            # The worker that reads the member compares this with the count that it claimed.
            "times": h.times + new.times,
            "state": case((is_leased, literal(str(HintState.LEASED), String())), else_=new.state),
            "next_attempt_at": case((is_leased, h.next_attempt_at), else_=new.next_attempt_at),
            "attempts": 0,
        },
    )
