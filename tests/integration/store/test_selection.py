"""The selection rule in SQL gives the same result as the rule in Python."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Integer, literal, select, text

from worker.policy.moments import read_moment
from worker.policy.selection import HEALTHY, UNREADABLE_FOR, classify, is_doubtful
from worker.settings.values import CONNECTION_STATUSES
from worker.store.selection import FACTS, facts_of, is_broken, is_well, reason, since, standing
from worker.store.sql.moments import Moment, as_text, has_passed
from worker.store.sql.tables import members

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
STATUSES = ("DENIED", "IMPAIRED", "IMPORTED", "PREVENTED")
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

#: Values that an application may write into any column of SQLite.
junk = (
    st.binary(max_size=12)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(
        [
            "infinity",
            "-infinity",
            "9999-12-31T23:59:59-05:00",
            "0001-01-01T00:00:00+01:00",
            "2026-09-31",
            "24:00",
            "2026-09-31 10:00:00Z",
            "2026-11-23 24:00:00",
            "2026-11-23TT1:59:59",
            "2026-11-23 11:59:59\x00",
            "1989-12-31T23:59:59+00:00",
            "2200-01-01T00:00:00Z",
        ]
    )
)
forms = st.sampled_from(
    ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+0000", "%Y-%m-%d %H:%M:%S+00", "%Y%m%dT%H%M%S", " %Y-%m-%d %H:%M:%S.%f"]
)
near = st.integers(-3, 3).map(lambda s: NOW + timedelta(seconds=s)) | st.datetimes(
    NOW.replace(year=2020, tzinfo=None), NOW.replace(year=2030, tzinfo=None), timezones=st.just(UTC)
).map(lambda m: m.replace(microsecond=0))
zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
sqlite_moments = (
    st.none() | st.tuples(near, forms).map(lambda m: m[0].strftime(m[1])) | st.tuples(near, zones).map(lambda m: m[0].astimezone(m[1]).isoformat())
    | st.text("0123456789-:+.TZ ", max_size=26) | junk
)  # fmt: skip
#: Every moment that PostgreSQL can hold, as its text.
postgresql_moments = (
    st.none() | near.map(lambda m: m.isoformat())
    | st.sampled_from(["infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "0044-03-15 12:00:00+00 BC", "0001-01-01 00:00:00+00", "9999-12-31 23:59:59-05", "10000-01-01 00:00:00+00", "294276-12-31 23:59:59+00", "1970-01-01 00:00:00+00", "1990-01-01 00:00:00+00", "2200-01-01 00:00:00+00"])
)  # fmt: skip
statuses = st.none() | st.sampled_from(
    [*CONNECTION_STATUSES, "SOMETHING_NEW", "", "denied", " Denied\n", "2", "02", "6", "connected", "den\u0131ed"]
)


def written(*, is_sqlite: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Rows that an application may write."""
    any_kind = junk if is_sqlite else st.nothing()
    moments = sqlite_moments if is_sqlite else postgresql_moments
    truths = st.sampled_from([None, True, False] + ["true", "F", " yes", "no", "2", "maybe"] * is_sqlite)
    return st.fixed_dictionaries(
        {
            "is_oauth": truths | any_kind,
            "connection_status": statuses | any_kind,
            "error_code": st.sampled_from([None, 0, 2003, 2004, 2005, 2006]) | any_kind,
            "token_expires_at": moments,
            "token_revoked_at": moments,
        }
    )


def with_reckoned(rows: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """The same rows; some have a reckoned date. The application left it, emptied it, or wrote its own date over it."""
    dates = st.sampled_from([-72, -1, 1, 24, 48, 50, 24 * 90]).map(lambda h: as_text(NOW + timedelta(hours=h)) + "+00")
    stands = dates.map(lambda date: {"token_expires_at": date, "expiry_reckoned": date.removesuffix("+00")})
    emptied = dates.map(lambda date: {"token_expires_at": None, "expiry_reckoned": date.removesuffix("+00")})
    own = dates.map(lambda date: {"expiry_reckoned": date.removesuffix("+00")})
    return st.tuples(rows, st.just({"expiry_reckoned": None}) | stands | emptied | own).map(lambda two: two[0] | two[1])


def inserting(*, is_sqlite: bool) -> Any:
    """The INSERT of a row as an application writes it, with the date that we reckoned."""
    values = [":member_guid", ":user_guid", ":is_oauth", ":connection_status", ":error_code"]
    dates = ["token_expires_at", "token_revoked_at", "expiry_reckoned"]
    values += [f":{name}" if is_sqlite else f"CAST(:{name} AS timestamptz)" for name in dates]
    names = ", ".join([*(value.strip(":") for value in values[:5]), *dates])
    return text(f"INSERT INTO members ({names}) VALUES ({', '.join(values)})")


async def test_the_rule_in_sql_says_what_the_rule_in_python_says(bench_for: Any) -> None:
    bench = await bench_for()
    loop = asyncio.get_running_loop()
    is_sqlite = bench.runtime.database.rows.is_sqlite
    now = literal(NOW, Moment())

    async def ask(many: list[dict[str, Any]], why: str) -> None:
        names = [f"MBR-{number}" for number in range(len(many))]
        async with bench.runtime.database.engine.begin() as connection:
            await connection.execute(text("DELETE FROM members"))
            rows = [{"member_guid": name, "user_guid": "USR-1"} | row for name, row in zip(names, many, strict=True)]
            await connection.execute(inserting(is_sqlite=is_sqlite), rows)
            answer = await connection.execute(
                select(
                    members.c.member_guid,
                    is_broken(STATUSES, now),
                    is_well(STATUSES, now),
                    reason(now),
                    since(now),
                    *FACTS,
                )
            )
            found = {row[0]: row[1:] for row in answer}
            row = members.alias().c
            guid, theirs = row.member_guid, {"picked_for": literal(why), "user_guid": row.user_guid}
            answer = await connection.execute(select(guid, standing(guid, STATUSES, now, **theirs)))
            stands = {row[0]: row[1] for row in answer}
            others = standing(guid, STATUSES, now, picked_for=literal(why), user_guid=literal("USR-another"))
            of_others = {row[1] for row in await connection.execute(select(guid, others))}
            gone = standing(literal("MBR-deleted"), STATUSES, now, picked_for=literal(why), user_guid=literal("USR-1"))
            deleted = await connection.scalar(select(gone))
        for name, row in zip(names, many, strict=True):
            is_picked, well, why_sql, from_when, *facts = found[name]
            member = facts_of(facts)
            verdict = classify(member, statuses=STATUSES, now=NOW)
            assert bool(is_picked) == verdict.broken, (row, member, verdict)
            assert bool(well) != verdict.broken, (row, member, verdict)
            if verdict.broken:
                assert (why_sql, from_when) == (verdict.reason, verdict.since), (row, member)
            end = "reconnected" if member.connection_status in {None, *HEALTHY} else "cancelled"
            goes_on = verdict.broken or is_doubtful(member, picked_for=why)
            assert stands[name] == ("broken" if goes_on else end), (row, member, verdict)
        assert deleted == "gone"
        assert of_others == {"cancelled"}

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(with_reckoned(written(is_sqlite=is_sqlite)), min_size=1, max_size=40),
        st.sampled_from(list(UNREADABLE_FOR)),
    )
    def property_holds(many: list[dict[str, Any]], why: str) -> None:
        asyncio.run_coroutine_threadsafe(ask(many, str(why)), loop).result(30)

    await asyncio.to_thread(property_holds)


@ON_SQLITE
async def test_every_text_is_one_moment_for_sql_and_for_the_grammar(bench_for: Any) -> None:
    bench = await bench_for()
    loop = asyncio.get_running_loop()
    insert_row = text("INSERT INTO members (member_guid, user_guid, token_expires_at) VALUES (:guid, 'USR-1', :moment)")

    async def ask(many: list[Any]) -> None:
        async with bench.runtime.database.engine.begin() as connection:
            await connection.execute(text("DELETE FROM members"))
            await connection.execute(insert_row, [{"guid": n, "moment": moment} for n, moment in enumerate(many)])
            raw = "SELECT typeof(token_expires_at), CAST(token_expires_at AS BLOB) FROM members ORDER BY CAST(member_guid AS INTEGER)"
            kept = (await connection.execute(text(raw))).all()
            order = members.c.member_guid.cast(Integer())
            passed = has_passed(members.c.token_expires_at, literal(NOW, Moment()))
            read = (await connection.execute(select(members.c.token_expires_at, passed).order_by(order))).all()
        for (kind, data), (moment, is_past) in zip(kept, read, strict=True):
            expected = read_moment(data.decode()) if kind == "text" else None
            assert (moment, bool(is_past)) == (expected, expected is not None and expected <= NOW), data

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(sqlite_moments, min_size=1, max_size=40))
    @example(
        [
            "2000-02-30 00:00:00",
            "2026-09-31T10:00:00Z",
            "2026-11-23 24:00:00",
            "2026-11-23 11:59:59\x00",
            "1989-12-31T23:59:59Z",
            "2200-01-01 00:00:00",
        ]
    )
    def property_holds(many: list[Any]) -> None:
        asyncio.run_coroutine_threadsafe(ask(many), loop).result(30)

    await asyncio.to_thread(property_holds)


async def test_moments_that_an_application_wrote_in_its_own_form_are_understood(bench_for: Any) -> None:
    bench = await bench_for()
    forms = ["2026-11-23T11:59:59Z", "2026-11-23 11:59:59+00:00", "2026-11-23T13:59:59+02:00", "2026-11-23 11:59:59+00"]
    forms += ["2026-11-23 11:59:59+0000", "20261123T115959Z", "2026-11-23T12:59:59+01"]
    for number, form in enumerate(forms):
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
