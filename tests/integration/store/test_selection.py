"""The rule in SQL is the rule in Python."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, literal, select, text

from worker.policy.selection import HEALTHY, MemberFacts, judge
from worker.setting_types import CONNECTION_STATUSES
from worker.store.moments import Moment
from worker.store.selection import is_broken, is_well, reason, since, standing
from worker.store.tables import members

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STATUSES = ("DENIED", "IMPAIRED", "IMPORTED", "PREVENTED")

moments = (
    st.none()
    | st.integers(-3, 3).map(lambda s: NOW + timedelta(seconds=s))
    | st.datetimes(
        NOW.replace(year=2020, tzinfo=None), NOW.replace(year=2030, tzinfo=None), timezones=st.just(UTC)
    ).map(lambda m: m.replace(microsecond=0))
)
facts = st.builds(
    MemberFacts,
    is_oauth=st.sampled_from([None, True, False]),
    connection_status=st.none() | st.sampled_from([*CONNECTION_STATUSES, "SOMETHING_NEW", ""]),
    error_code=st.sampled_from([None, 0, 2003, 2004, 2005, 2006]),
    token_expires_at=moments,
    token_revoked_at=moments,
)


async def test_the_rule_in_sql_says_what_the_rule_in_python_says(bench_for: Any) -> None:
    bench = await bench_for()
    loop = asyncio.get_running_loop()
    now = literal(NOW, Moment())

    async def ask(many: list[MemberFacts]) -> None:
        names = [f"MBR-{number}" for number in range(len(many))]
        async with bench.runtime.database.engine.begin() as connection:
            await connection.execute(text("DELETE FROM members"))
            rows = [
                {"member_guid": name, "user_guid": "USR-1"} | {f: getattr(m, f) for f in MemberFacts.__struct_fields__}
                for name, m in zip(names, many, strict=True)
            ]
            await connection.execute(insert(members), rows)
            broken = is_broken(STATUSES, now)
            answer = await connection.execute(
                select(members.c.member_guid, broken, is_well(STATUSES, now), reason(now), since(now))
            )
            found = {row[0]: row[1:] for row in answer}
            guid = members.alias().c.member_guid
            answer = await connection.execute(select(guid, standing(guid, STATUSES, now)))
            stands = {row[0]: row[1] for row in answer}
            deleted = await connection.scalar(select(standing(literal("MBR-deleted"), STATUSES, now)))
        for name, member in zip(names, many, strict=True):
            verdict = judge(member, statuses=STATUSES, now=NOW)
            is_picked, well, why, from_when = found[name]
            assert bool(is_picked) == verdict.broken, (member, verdict)
            assert bool(well) != verdict.broken, (member, verdict)
            if verdict.broken:
                assert (why, from_when) == (verdict.reason, verdict.since), member
            end = "reconnected" if member.connection_status in {None, *HEALTHY} else "cancelled"
            assert stands[name] == ("broken" if verdict.broken else end), (member, verdict)
        assert deleted == "gone"

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(facts, min_size=1, max_size=40))
    def property_holds(many: list[MemberFacts]) -> None:
        asyncio.run_coroutine_threadsafe(ask(many), loop).result(30)

    await asyncio.to_thread(property_holds)


async def test_moments_that_an_application_wrote_in_its_own_form_are_understood(bench_for: Any) -> None:
    bench = await bench_for()
    forms = ["2026-11-23T11:59:59Z", "2026-11-23 11:59:59+00:00", "2026-11-23T13:59:59+02:00", "2026-11-23 11:59:59+00"]
    for number, form in enumerate(forms):
        if bench.runtime.database.rows.is_sqlite and form.endswith("+00"):
            continue  # PostgreSQL's own form
        await bench.sql(
            f"INSERT INTO members (member_guid, user_guid, token_expires_at) VALUES ('MBR-{number}', 'USR-1', '{form}')"
        )
    now = literal(NOW, Moment())
    async with bench.runtime.database.engine.begin() as connection:
        picked = (await connection.execute(select(is_broken(STATUSES, now)))).scalars().all()
        later = literal(NOW - timedelta(seconds=2), Moment())
        not_yet = (await connection.execute(select(is_broken(STATUSES, later)))).scalars().all()
    assert all(picked)
    assert not any(not_yet)
