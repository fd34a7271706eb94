"""The owner of ``reconciliations``: visits to everybody, because the list of changed members may be incomplete.

A reconciliation begins:

- in a new database;
- once a day, because the list may lack members: triggers may be disabled, and logical replication runs no statement triggers;
- after a change of a setting that the rule depends on, or of the rule itself (:data:`RULE_VERSION`);
- after ``TRUNCATE members``.

Each sweep continues it for a part of its time, page by page: first the members that may be broken, then the reconnections that are open or
have a ``reopen_at``. Each page is one transaction, which also stores where the next page begins. So a sweep that is killed loses nothing,
and another sweep continues.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, Text, and_, bindparam, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.notices import horizon
from worker.store.changes import Changes
from worker.store.selection import may_matter_by
from worker.store.sql.application import is_guid
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconciliations, reconnections
from worker.store.transactions.visit import VisitCounts, Visits

m, r, rec = members.c, reconnections.c, reconciliations.c

#: How often a reconciliation begins.
EVERY = timedelta(days=1)
#: To be raised when the rule itself changes, so that a new version begins a reconciliation.
RULE_VERSION = 2
#: The phases in order, the key by which each is paged, and the GUIDs that it visits.
MEMBERS, RECONNECTIONS = "members", "reconnections"
_KEYS: dict[str, Any] = {MEMBERS: m.member_guid, RECONNECTIONS: r.id}
_GUIDS: dict[str, Any] = {MEMBERS: m.member_guid, RECONNECTIONS: r.member_guid}


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of a reconciliation that was done."""

    #: Why there is a reconciliation.
    reason: str
    counts: VisitCounts


def rule_of(statuses: Collection[str], notice_days: Sequence[int]) -> str:
    """The settings that the rule depends on, hashed."""
    text = f"{RULE_VERSION} {sorted(statuses)} {sorted(notice_days)}"
    return sha256(text.encode()).hexdigest()


class Reconciling:
    """The statements of a reconciliation; they run in the caller's transaction."""

    def __init__(self, rows: Rows) -> None:
        self._changes = rows.part(Changes)
        self._last = select(reconciliations).order_by(rec.id.desc()).limit(1).with_for_update()
        self._begin = insert(reconciliations)
        now = bindparam("now", type_=Moment())
        self._supersede = (
            update(reconciliations).where(rec.finished_at.is_(None)).values(finished_at=now, phase=None, after_guid="")
        )
        self._under_way = (
            select(rec.id, rec.reason, rec.phase, rec.after_guid, rec.after_id)
            .where(rec.finished_at.is_(None))
            .order_by(rec.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        after, end = (
            {MEMBERS: bindparam(name, type_=Text()), RECONNECTIONS: bindparam(name, type_=BigInteger())}
            for name in ("after", "end")
        )
        remaining = {
            MEMBERS: and_(m.member_guid > after[MEMBERS], is_guid(m.member_guid)),
            RECONNECTIONS: r.id > after[RECONNECTIONS],
        }
        n = bindparam("n", type_=BigInteger())
        self._ends = {
            phase: select(key).where(remaining[phase]).order_by(key).limit(1).offset(n) for phase, key in _KEYS.items()
        }
        may_matter = {
            MEMBERS: may_matter_by(bindparam("until", type_=Moment())),
            RECONNECTIONS: or_(r.closed_at.is_(None), r.reopen_at.is_not(None)),
        }
        self._pages = {
            phase: select(_GUIDS[phase]).where(remaining[phase], may_matter[phase]).order_by(key)
            for phase, key in _KEYS.items()
        }
        self._up_to = {phase: key <= end[phase] for phase, key in _KEYS.items()}

    async def begin(self, connection: AsyncConnection, rule: str, now: datetime, *, everything: bool) -> None:
        """Begin a reconciliation if it is time to. It replaces one that is under way for other settings."""
        last = (await connection.execute(self._last)).one_or_none()
        reason = _reason(last, rule, now, everything=everything)
        if reason is None:
            return
        await connection.execute(self._supersede, {"now": now})
        await connection.execute(self._begin, {"reason": reason, "rule": rule, "started_at": now, "phase": MEMBERS})

    async def page(
        self, connection: AsyncConnection, visits: Visits, now: datetime, *, n: int, grace: timedelta
    ) -> "Page | None":
        """Do one page of about ``n`` rows; ``None`` if no reconciliation is under way, or another sweep is working on it."""
        row = (await connection.execute(self._under_way)).one_or_none()
        if row is None:
            return None
        after = row.after_guid if row.phase == MEMBERS else row.after_id
        end = await connection.scalar(self._ends[row.phase], {"after": after, "n": n - 1})
        page, parameters = self._pages[row.phase], {"after": after}
        if row.phase == MEMBERS:
            parameters |= {"until": horizon(now, visits.notices.days)}
        if end is not None:
            page, parameters = page.where(self._up_to[row.phase]), parameters | {"end": end}
        guids = list(dict.fromkeys((await connection.execute(page, parameters)).scalars()))
        before = await self._changes.open_of(connection, guids)
        counts = await visits.visit(connection, guids, await self._changes.as_of(connection, now), grace=grace)
        await self._changes.list(connection, await self._changes.passed_over(connection, before))
        figures = {"opened": rec.opened + counts.opened, "closed": rec.closed + counts.closed}
        await connection.execute(
            update(reconciliations).where(rec.id == row.id).values(**_place(row.phase, end, now), **figures)
        )
        return Page(reason=row.reason, counts=counts)

    async def leave(self, connection: AsyncConnection, member_guids: Collection[str]) -> None:
        """Remove the GUIDs of these members, which are forgotten: a reconciliation whose place is one of them begins again."""
        at_forgotten = rec.after_guid.in_(sorted(member_guids))
        await connection.execute(update(reconciliations).where(at_forgotten).values(after_guid=""))


def _place(phase: str, end: Any, now: datetime) -> dict[str, Any]:
    """Where the next page begins, behind ``end``; ``None``: the phase is over."""
    if phase == MEMBERS:
        return {"after_guid": end} if end is not None else {"after_guid": "", "phase": RECONNECTIONS}
    return {"after_id": end} if end is not None else {"phase": None, "finished_at": now}


def _reason(last: Any, rule: str, now: datetime, *, everything: bool) -> str | None:
    if last is None:
        return "first"
    if everything:
        return "everything"
    if last.rule != rule:
        return "settings"
    return "daily" if last.finished_at is not None and abs(now - last.started_at) >= EVERY else None
