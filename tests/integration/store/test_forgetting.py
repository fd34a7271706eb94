"""No value of a forgotten user is left: values are planted in every column of every table, and searched for afterwards."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, Date, insert, text

from worker.policy.states import ReconnectionState
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.clicks import Press
from worker.store.links import NewLink
from worker.store.queries.link_page import BankNow
from worker.store.sql.moments import Moment
from worker.store.sql.tables import guid_columns, links, metadata, reconnections
from worker.store.transactions.click import ClickStore
from worker.store.transactions.deliver import DeliverStore
from worker.store.transactions.fetch import FetchStore
from worker.store.transactions.fetch_results import FetchResult, NewNotification
from worker.store.transactions.forget import NOT_OF_USERS, ForgetStore
from worker.store.windows import NewWindow

#: GUID columns of tables without ``user_guid`` that contain the user's GUID. The other such columns contain the member's.
ALONE = {"subject": "USR-{0}"}


def planted(table: Any, who: str, id_: int, now: Any) -> dict[str, Any]:
    """A row of one user, with a different word in every column that can hold text."""
    states = {
        column: re.findall(r"'([^']*)'", str(check.sqltext))[-1]
        for check in table.constraints
        if isinstance(check, CheckConstraint)
        for column in table.c
        if str(check.sqltext).startswith(f"{column.name} IN")
    }
    row: dict[str, Any] = {}
    for column in table.c:
        kind = column.type
        if column.foreign_keys or (column.primary_key and getattr(kind, "python_type", None) is int):
            row[column.name] = id_
        elif column.name == "user_guid":
            row[column.name] = f"USR-{who}"
        elif column in set(guid_columns(table)):
            known = "user_guid" in table.c or table.name == "windows"
            own = f"MBR-{table.name}-{column.name}-{who}"
            row[column.name] = own if known else ALONE.get(column.name, "MBR-members-member_guid-{0}").format(who)
        elif column in states:
            row[column.name] = states[column]
        elif isinstance(kind, Moment):
            row[column.name] = now
        elif isinstance(kind, Date):
            row[column.name] = now.date()
        elif hasattr(kind, "length"):
            row[column.name] = f"{who}-{table.name}-{column.name}"[: kind.length or 200]
        else:
            row[column.name] = 1 if kind.python_type in {int, bool} else None
    return row


async def plant(bench: Any, who: str, id_: int) -> None:
    """Write a row to every table that may contain a user's data."""
    now = bench.runtime.clock.now()
    async with bench.runtime.database.engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name not in NOT_OF_USERS:
                await connection.execute(insert(table), [planted(table, who, id_, now)])


async def found(bench: Any, *words: str) -> list[str]:
    """The columns (``table.column``) in which any of these words occurs, in all tables of the database."""
    async with bench.runtime.database.engine.begin() as connection:
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
        if not bench.runtime.database.rows.is_sqlite:
            names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        tables = [row[0] for row in await connection.execute(text(names))]
        rows = {name: (await connection.execute(text(f"SELECT * FROM {name}"))).mappings().all() for name in tables}
    return [
        f"{name}.{column}"
        for name, listed in rows.items()
        for row in listed
        for column, value in row.items()
        if any(word in str(value) for word in words)
    ]


async def test_nothing_of_who_is_forgotten_is_found_anywhere_and_all_of_the_others_is(bench_for: Any) -> None:
    bench = await bench_for()
    await plant(bench, "gone", 101)
    await plant(bench, "stays", 202)
    others = sorted(await found(bench, "stays"))
    planted_in = {place.partition(".")[0] for place in await found(bench, "gone")}
    named = {
        table.name
        for table in metadata.sorted_tables
        if any(True for column in table.c if hasattr(column.type, "length"))
    }
    assert planted_in >= named - NOT_OF_USERS
    store = ForgetStore(bench.runtime.database)
    counted = await store.count("USR-gone")
    erased = await store.forget("USR-gone")
    assert await found(bench, "gone") == []
    assert sorted(await found(bench, "stays")) == others
    assert {name: erased[name] for name in counted} == counted
    assert set(erased) >= {table.name for table in metadata.sorted_tables} - NOT_OF_USERS - {"changed_members"}
    async with bench.runtime.database.engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name not in NOT_OF_USERS:
                left = (await connection.execute(text(f"SELECT count(*) FROM {table.name}"))).scalar_one()
                assert left <= 1 + (table.name == "changed_members"), table.name
    assert await store.forget("USR-gone") == {}
    assert await store.count("USR-gone") == {}


def test_every_table_is_searched_or_said_to_hold_nothing_of_a_user() -> None:
    for table in metadata.sorted_tables:
        assert guid_columns(table) or table.foreign_keys or table.name in NOT_OF_USERS, table.name


async def test_a_member_that_is_another_users_by_now_stays_theirs(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("shared", user="first", connection_status="DENIED")
    await sweep(bench.runtime)
    await bench.sql("INSERT INTO users (user_guid) VALUES ('USR-second')")
    await bench.sql("UPDATE members SET user_guid = 'USR-second'")
    await ForgetStore(bench.runtime.database).forget("USR-first")
    assert await found(bench, "USR-first") == []
    assert await bench.one("SELECT user_guid FROM members") == "USR-second"


async def test_a_reconciliation_that_stands_at_a_member_who_is_forgotten_begins_again(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("gone")
    await bench.sql(
        "INSERT INTO reconciliations (reason, rule, started_at, phase, after_guid) "
        "VALUES ('daily', 'r', :at, 'members', 'MBR-gone')", at=bench.stored(bench.runtime.clock.now()),
    )  # fmt: skip
    await ForgetStore(bench.runtime.database).forget("USR-gone")
    assert await found(bench, "MBR-gone") == []
    assert await bench.one("SELECT after_guid FROM reconciliations") == ""


async def _opened(bench: Any, *names: str) -> None:
    for name in names:
        await bench.member(name, connection_status="DENIED")
    await sweep(bench.runtime)


async def test_what_was_being_fetched_changes_nothing(bench_for: Any) -> None:
    bench = await bench_for()
    await _opened(bench, "gone", "stays")
    store, now = FetchStore(bench.runtime.database), bench.runtime.clock.now()
    claims = await store.claim(10, worker_id="w", lease_seconds=60, now=now, soon=now, probe=False)
    assert len(claims) == 2
    await ForgetStore(bench.runtime.database).forget("USR-gone")
    results = [
        (
            [
                FetchResult(
                    claim=claim,
                    state=ReconnectionState.READY,
                    outcome="window",
                    encrypted_uri="u",
                    window_guid="MBR-gone-2",
                )
            ],
            NewNotification(user_guid=claim.user_guid, channel="email", step=0, message_key=claim.user_guid),
        )
        for claim in claims
    ]
    assert await store.settle(results, now=now) == 1
    assert await found(bench, "USR-gone", "MBR-gone'") == []
    assert await bench.one("SELECT user_guid FROM notifications") == "USR-stays"


async def test_a_message_that_was_claimed_is_not_sent(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"gone": ["ok"], "stays": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url="https://reconnect.example.com")
        await _opened(bench, "gone", "stays")
        await fetch(bench.runtime)
        store, now = DeliverStore(bench.runtime.database), bench.runtime.clock.now()
        claimed = await store.claim(10, worker_id="w", lease_seconds=60, now=now)
        assert len(claimed) == 2
        await ForgetStore(bench.runtime.database).forget("USR-gone")
        new = [
            NewLink(
                token_hash=each.user_guid,
                user_guid=each.user_guid,
                expires_at=now + timedelta(days=1),
                notification_id=each.id,
            )
            for each in claimed
        ]
        marked = await store.mark_dispatched(claimed, new)
        assert {each.user_guid for each in claimed if each.id in marked} == {"USR-stays"}
        await store.release(claimed, links=new)
        await deliver(bench.runtime)
        assert [mail["recipients"] for mail in await sandbox.mails()] == [["stays@mail.example"]]
        assert await found(bench, "USR-gone", "MBR-gone", "gone@") == []


async def test_a_click_under_way_leads_nowhere_and_leaves_nothing(bench_for: Any) -> None:
    bench = await bench_for()
    await _opened(bench, "gone")
    store, now = ClickStore(bench.runtime.database), bench.runtime.clock.now()
    async with bench.runtime.database.engine.begin() as connection:
        await connection.execute(
            insert(links),
            [
                {
                    "id": 1,
                    "token_hash": "h",
                    "user_guid": "USR-gone",
                    "created_at": now,
                    "expires_at": now + timedelta(days=9),
                }
            ],
        )
    begun = await store.begin("h", reconnection_id=None, nonce_hash="n", max_age=None, is_usable=bool)
    assert isinstance(begun.bank, BankNow)
    assert isinstance(begun.press, Press)
    await ForgetStore(bench.runtime.database).forget("USR-gone")
    window = NewWindow(reconnection_id=begun.bank.reconnection_id, member_guid="MBR-gone", encrypted_uri="u")
    assert await store.served(begun.bank, begun.press, window, now) == (None, ReconnectionState.GONE)
    await store.fail(begun.bank, begun.press, "http_503", now, asked=True)
    assert await found(bench, "USR-gone", "MBR-gone") == []


@pytest.mark.each_database
async def test_a_sweep_that_had_read_the_user_before_leaves_nothing_behind(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("gone", connection_status="DENIED")
    now = bench.runtime.clock.now()
    row = {
        "member_guid": "MBR-gone",
        "user_guid": "USR-gone",
        "state": "due",
        "reason": "error_code",
        "broken_since": now,
        "opened_at": now,
    }
    async with bench.runtime.database.engine.connect() as sweeping:
        await sweeping.begin()
        await sweeping.execute(insert(reconnections), [row])
        forgetting = asyncio.create_task(ForgetStore(bench.runtime.database).forget("USR-gone"))
        done, _ = await asyncio.wait([forgetting], timeout=0.5)
        assert not done  # it waits for the sweep's commit
        await sweeping.commit()
    assert (await forgetting)["reconnections"] == 1
    assert await found(bench, "USR-gone", "MBR-gone") == []
