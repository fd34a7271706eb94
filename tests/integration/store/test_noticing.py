"""Notices begin and end in SQL by the same rule as in Python."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text

from tests.integration.store.test_selection import NOW, STATUSES, inserting, with_reckoned, written
from worker.policy.moments import BLANKS
from worker.policy.notices import ending, is_near
from worker.policy.selection import MemberFacts
from worker.store.selection import FACTS, facts_of
from worker.store.sql.tables import members, reconnections
from worker.store.transactions.visit import Visits

#: Dates (hours from now) around the limits of the rule: now, 2 days and 7 days. Other dates are drawn too.
near_dates = st.sampled_from([0, 1, 47, 48, 49, 7 * 24 - 1, 7 * 24, 7 * 24 + 1]).flatmap(
    lambda hours: st.integers(-2, 2).map(lambda s: NOW + timedelta(hours=hours, seconds=s))
)


def some_rows(*, is_sqlite: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Any row, or a row of a member that is not broken and whose token expires soon."""
    form = st.sampled_from(["%Y-%m-%dT%H:%M:%SZ", *["%Y%m%dT%H%M%S+0000", " %Y-%m-%d %H:%M:%S"] * is_sqlite])
    well = st.fixed_dictionaries(
        {
            "is_oauth": st.sampled_from([None, True, False]),
            "connection_status": st.sampled_from(
                [None, "CONNECTED", "connected", "UPDATED", "6", "CLOSED", "DENIED", "IMPEDED"]
            ),
            "error_code": st.none(),
            "token_expires_at": st.tuples(near_dates, form).map(lambda date: date[0].strftime(date[1])),
            "token_revoked_at": st.none(),
        }
    )
    return with_reckoned(written(is_sqlite=is_sqlite) | well)


@pytest.mark.parametrize("days", [(7, 2), (1,), ()])
async def test_notices_begin_and_end_in_sql_as_in_python(bench_for: Any, days: tuple[int, ...]) -> None:
    bench = await bench_for()
    loop = asyncio.get_running_loop()
    is_sqlite = bench.runtime.database.rows.is_sqlite
    visits = Visits(bench.runtime.database.rows, statuses=STATUSES, notice_days=days)
    r = reconnections.c
    expires_at = NOW + timedelta(hours=48)

    async def write(many: list[dict[str, Any]], *, noticed: bool) -> list[MemberFacts]:
        async with bench.runtime.database.engine.begin() as connection:
            for table in ("reconnections", "members"):
                await connection.execute(text(f"DELETE FROM {table}"))
            rows = [{"member_guid": f"MBR-{n:03}", "user_guid": "USR-1"} | row for n, row in enumerate(many)]
            await connection.execute(inserting(is_sqlite=is_sqlite), rows)
            if noticed:
                reconnection = {"state": "due", "reason": "expires_soon", "broken_since": expires_at, "opened_at": NOW}
                await connection.execute(
                    insert(reconnections),
                    [{"member_guid": row["member_guid"], "user_guid": "USR-1", **reconnection} for row in rows],
                )
            facts = await connection.execute(select(*FACTS).order_by(members.c.member_guid))
            return [facts_of(row) for row in facts]

    async def visit(many: list[MemberFacts]) -> dict[str, tuple[str, str | None]]:
        """Visit all members; return the state and outcome of each one's first notice."""
        async with bench.runtime.database.engine.begin() as connection:
            guids = [f"MBR-{n:03}" for n, _ in enumerate(many)]
            await visits.visit(connection, guids, NOW, grace=timedelta(0))
            rows = await connection.execute(
                select(r.member_guid, r.state, r.outcome).where(r.reason == "expires_soon").order_by(r.id.desc())
            )
            return {row[0]: (row[1], row[2]) for row in rows}

    async def check(many: list[dict[str, Any]]) -> None:
        facts = await write(many, noticed=False)
        begun = await visit(facts)
        for n, (row, member) in enumerate(zip(many, facts, strict=True)):
            if member.is_reckoned and (row["token_expires_at"] is None or not row["token_expires_at"].strip(BLANKS)):
                continue  # a sweep restores an emptied reckoned date before it opens notices
            assert (f"MBR-{n:03}" in begun) == is_near(member, statuses=STATUSES, days=days, now=NOW), member
        ended = await visit(await write(many, noticed=True))
        for n, member in enumerate(facts):
            end = ending(member, expires_at=expires_at, statuses=STATUSES, days=days, now=NOW)
            assert ended[f"MBR-{n:03}"] == (end or ("due", None)), member

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(some_rows(is_sqlite=is_sqlite), min_size=1, max_size=40))
    def property_holds(many: list[dict[str, Any]]) -> None:
        asyncio.run_coroutine_threadsafe(check(many), loop).result(30)

    await asyncio.to_thread(property_holds)
