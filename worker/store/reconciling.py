"""The owner of ``reconciliations``: going through everything, where the list of changed members does not tell enough.

Once a day, since no list is perfect: triggers may be switched off, and logical replication does not run those of a statement. When
settings change that the rule depends on. And when the table of members was emptied at once.

It goes on in every sweep, for a share of its time, page by page: first the members that may be broken, then the reconnections that are
open or at rest. Each page is one transaction, with the place where the next one begins. So a sweep that is killed loses nothing, and
another goes on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger, Text, bindparam, cast, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.policy.notices import horizon
from worker.store.changes import Changes
from worker.store.selection import may_matter_by
from worker.store.sql.application import is_guid
from worker.store.sql.moments import Moment
from worker.store.sql.rows import Rows
from worker.store.sql.tables import members, reconciliations, reconnections
from worker.store.visiting import Found, Visits

m, r, rec = members.c, reconnections.c, reconciliations.c

#: How often everything is gone through.
EVERY = timedelta(days=1)
#: Raised when the rule itself changes, so that a new version goes through everything.
RULE_VERSION = 1
#: The phases, in their order.
MEMBERS, RECONNECTIONS = "members", "reconnections"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of a reconciliation that was gone through."""

    #: Why there is a reconciliation.
    reason: str
    found: Found


def rule_of(statuses: Collection[str], notice_days: Sequence[int]) -> str:
    """The settings that the rule depends on, hashed."""
    said = f"{RULE_VERSION} {sorted(statuses)} {sorted(notice_days)}"
    return sha256(said.encode()).hexdigest()


class Reconciling:
    """Its statements; in the transaction of the caller."""

    def __init__(self, rows: Rows) -> None:
        self._changes = rows.part(Changes)
        self._last = select(reconciliations).order_by(rec.id.desc()).limit(1).with_for_update()
        self._begin = insert(reconciliations)
        now = bindparam("now", type_=Moment())
        self._supersede = update(reconciliations).where(rec.finished_at.is_(None)).values(finished_at=now, phase=None)
        self._under_way = (
            select(rec.id, rec.reason, rec.phase, rec.after)
            .where(rec.finished_at.is_(None))
            .order_by(rec.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        n = bindparam("n", type_=BigInteger())
        text = bindparam("after", type_=Text())
        self._ends = {
            MEMBERS: select(m.member_guid).where(m.member_guid > text, is_guid(m.member_guid)).order_by(m.member_guid),
            RECONNECTIONS: select(r.id).where(r.id > cast(text, BigInteger())).order_by(r.id),
        }
        self._ends = {phase: query.limit(1).offset(n) for phase, query in self._ends.items()}
        end = bindparam("end", type_=Text())
        self._pages = {
            MEMBERS: select(m.member_guid)
            .where(m.member_guid > text, is_guid(m.member_guid), may_matter_by(bindparam("until", type_=Moment())))
            .order_by(m.member_guid),
            RECONNECTIONS: select(r.member_guid)
            .where(r.id > cast(text, BigInteger()), or_(r.closed_at.is_(None), r.reopen_at.is_not(None)))
            .order_by(r.id),
        }
        self._up_to = {MEMBERS: m.member_guid <= end, RECONNECTIONS: r.id <= cast(end, BigInteger())}

    async def begin(self, connection: AsyncConnection, rule: str, now: datetime, *, everything: bool) -> None:
        """Begin one if it is time to; one that is under way for other settings makes way for it."""
        last = (await connection.execute(self._last)).one_or_none()
        reason = _reason(last, rule, now, everything=everything)
        if reason is None:
            return
        await connection.execute(self._supersede, {"now": now})
        first = {"reason": reason, "rule": rule, "started_at": now, "phase": MEMBERS}
        if reason == "first":  # whoever was written before is listed
            first |= {"finished_at": now, "phase": None}
        await connection.execute(self._begin, first)

    async def page(
        self, connection: AsyncConnection, visits: Visits, now: datetime, *, n: int, grace: timedelta
    ) -> "Page | None":
        """Go through one page of about ``n`` rows; ``None`` if no reconciliation is under way, or another sweep is at it."""
        row = (await connection.execute(self._under_way)).one_or_none()
        if row is None:
            return None
        id_, reason, phase, after = row
        end = await connection.scalar(self._ends[phase], {"after": after, "n": n - 1})
        page, given = self._pages[phase], {"after": after}
        if phase == MEMBERS:
            given |= {"until": horizon(now, visits.notices.days)}
        if end is not None:
            page, given = page.where(self._up_to[phase]), given | {"end": str(end)}
        guids = list(dict.fromkeys((await connection.execute(page, given)).scalars()))
        found = await visits.visit(connection, guids, await self._changes.as_of(connection, now), grace=grace)
        await self._changes.list_leased(connection, guids)
        next_ = {"phase": phase, "after": str(end)} if end is not None else _next_phase(phase, now)
        figures = {"opened": rec.opened + found.opened, "closed": rec.closed + found.closed}
        await connection.execute(update(reconciliations).where(rec.id == id_).values(**next_, **figures))
        return Page(reason=reason, found=found)


def _next_phase(phase: str, now: datetime) -> dict[str, Any]:
    if phase == MEMBERS:
        return {"phase": RECONNECTIONS, "after": "0"}
    return {"phase": None, "finished_at": now}


def _reason(last: Any, rule: str, now: datetime, *, everything: bool) -> str | None:
    if last is None:
        return "first"
    if everything:
        return "everything"
    if last.rule != rule:
        return "settings"
    return "daily" if last.finished_at is not None and abs(now - last.started_at) >= EVERY else None
