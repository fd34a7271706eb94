"""MX's answers about members are applied to our tables: which columns are written, which are not, and what is closed."""

from datetime import timedelta
from typing import Any

import pytest

from tests.integration.stages.links import reconnection
from worker.store.from_mx.answers import Applied, MxMember, MxUser
from worker.store.from_mx.members import MxMembers
from worker.store.from_mx.users import MxUsers
from worker.store.sql.moments import NEVER


@pytest.fixture
async def bench(bench_for: Any) -> Any:
    return await bench_for()


def says(name: str, status: str | None = "CONNECTED", *, user: str | None = None, **more: Any) -> MxMember:
    return MxMember(user_guid=f"USR-{user or name}", member_guid=f"MBR-{name}", connection_status=status, **more)


async def applied(bench: Any, *answers: MxMember, read_seconds_ago: float = 1) -> Applied:
    now = bench.runtime.clock.now()
    read_at = now - timedelta(seconds=read_seconds_ago)
    database = bench.runtime.database
    return await database.transaction(
        lambda connection: database.rows.part(MxMembers).apply(connection, answers, read_at=read_at, now=now)
    )


async def member(bench: Any, name: str) -> dict[str, Any]:
    rows = await bench.sql("SELECT * FROM members WHERE member_guid = :g", g=f"MBR-{name}")
    return dict(rows[0]._mapping)


async def test_it_writes_what_mx_knows_and_nothing_that_the_application_alone_knows(bench: Any) -> None:
    now = bench.runtime.clock.now()
    theirs = {
        "token_expires_at": bench.moment(now + timedelta(days=9)),
        "institution_name": "Our Alder",
        "error_code": 77,
    }
    await bench.member("ann", connection_status="CONNECTED", **theirs)
    before = await member(bench, "ann")
    heard = says(
        "ann", "DENIED", is_oauth=True, institution_code="alder2", institution_name="MX Alder", error_code=None
    )
    assert await applied(bench, heard) == Applied(changed=1)
    after = await member(bench, "ann")
    assert (after["connection_status"], bool(after["is_oauth"]), after["institution_code"]) == (
        "DENIED",
        True,
        "alder2",
    )
    kept = ("institution_name", "token_expires_at", "token_revoked_at", "error_code", "user_guid", "muted_at")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


async def test_a_second_time_it_writes_nothing(bench: Any) -> None:
    await bench.member("ann", connection_status=" connected ")  # another spelling of the same status
    heard = [
        says("ann"),
        says("new", "DENIED", is_oauth=True, institution_code="elm", error_code=2004, tells_error=True),
    ]
    assert await applied(bench, *heard) == Applied(inserted=1, unchanged=1)
    assert await bench.sql("SELECT user_guid, email FROM users WHERE user_guid = 'USR-new'") == [("USR-new", None)]
    before = await bench.sql("SELECT * FROM members ORDER BY member_guid")
    assert await applied(bench, *heard) == Applied(unchanged=2)
    assert await bench.sql("SELECT * FROM members ORDER BY member_guid") == before


async def test_an_error_code_goes_only_where_mx_could_have_named_one(bench: Any) -> None:
    for name, code in (("silent", 2004), ("clear", 2004), ("own", 77)):
        await bench.member(name, connection_status="CONNECTED", error_code=code)
    await applied(bench, says("silent"), says("clear", tells_error=True), says("own", tells_error=True))
    codes = {row[0]: row[1] for row in await bench.sql("SELECT member_guid, error_code FROM members")}
    assert codes == {"MBR-silent": 2004, "MBR-clear": None, "MBR-own": 77}


async def test_members_of_partners_and_of_another_user_are_left_alone_and_counted(bench: Any) -> None:
    for name in ("partner", "theirs"):
        await bench.member(name, connection_status="CONNECTED")
    done = await applied(
        bench,
        says("partner", "DENIED", is_managed_by_user=False),
        says("theirs", "DENIED", user="somebody"),
        says("twice", "CONNECTED", user="one"),
        says("twice", "DENIED", user="two"),
    )
    assert done == Applied(inserted=1, managed=1, of_others=("MBR-twice", "MBR-theirs"))
    found = await bench.sql("SELECT member_guid, user_guid, connection_status FROM members ORDER BY 1")
    assert found == [
        ("MBR-partner", "USR-partner", "CONNECTED"),
        ("MBR-theirs", "USR-theirs", "CONNECTED"),
        ("MBR-twice", "USR-one", "CONNECTED"),
    ]


@pytest.mark.parametrize("state", ["due", "ready", "notified"])
async def test_one_that_is_back_closes_its_reconnection_as_verify_would(bench: Any, state: str) -> None:
    now = bench.runtime.clock.now()
    broken = now - timedelta(hours=2)
    await bench.member("ann", connection_status="DENIED", token_revoked_at=bench.moment(broken))
    await reconnection(bench, "ann", state=state, broken_since=broken)
    not_yet = says("ann", successfully_aggregated_at=broken - timedelta(minutes=1))
    assert (await applied(bench, not_yet)).back == 0
    assert (await applied(bench, says("ann", successfully_aggregated_at=now))).back == 1
    assert await bench.states() == {"MBR-ann": "reconnected"}
    row = await member(bench, "ann")
    assert (row["connection_status"], row["token_revoked_at"]) == ("CONNECTED", None)


async def test_an_answer_from_before_the_customer_came_back_changes_nothing(bench: Any) -> None:
    now = bench.runtime.clock.now()
    await bench.member("ann", connection_status="CONNECTED")
    await reconnection(bench, "ann", state="reconnected", closed_at=now)
    assert await applied(bench, says("ann", "DENIED"), read_seconds_ago=5) == Applied(overtaken=1)
    assert (await member(bench, "ann"))["connection_status"] == "CONNECTED"
    assert await applied(bench, says("ann", "DENIED"), read_seconds_ago=-5) == Applied(changed=1)


async def test_a_moved_member_keeps_its_row_and_is_known_by_both_guids(bench: Any) -> None:
    await bench.member("old", connection_status="DENIED")
    await reconnection(bench, "old", state="notified")
    moved = says("new", "DENIED", user="old", asked_guid="MBR-old", is_oauth=True)
    assert await applied(bench, moved) == Applied(changed=1, moved=1)
    assert await bench.one("SELECT moved_to FROM reconnections") == "MBR-new"
    assert await applied(bench, says("new", "CHALLENGED", user="old")) == Applied(changed=1)
    row = await member(bench, "old")
    assert (row["moved_to"], row["connection_status"]) == ("MBR-new", "CHALLENGED")
    assert await bench.one("SELECT count(*) FROM members") == 1


async def test_a_move_that_fetch_learnt_of_makes_no_second_row(bench: Any) -> None:
    await bench.member("old", connection_status="DENIED")
    await reconnection(bench, "old", state="notified", moved_to="MBR-new")
    assert await applied(bench, says("new", "DENIED", user="old")) == Applied(changed=1, moved=1)
    assert [row[0] for row in await bench.sql("SELECT member_guid FROM members")] == ["MBR-old"]


async def test_what_is_gone_ends_and_is_known_again_once_mx_lists_it(bench: Any) -> None:
    await bench.member("ann", connection_status="DENIED")
    await reconnection(bench, "ann", state="notified")
    database, now = bench.runtime.database, bench.runtime.clock.now()

    async def gone() -> int:
        return await database.transaction(
            lambda connection: database.rows.part(MxMembers).mark_gone(connection, ["MBR-ann"], now)
        )

    assert (await gone(), await gone()) == (1, 0)
    assert await bench.states() == {"MBR-ann": "gone"}
    await bench.sql("DELETE FROM changed_members")
    assert await applied(bench, says("ann", "DENIED"), read_seconds_ago=-5) == Applied(changed=1)
    assert (await member(bench, "ann"))["gone_at"] is None
    # A sweep may open another reconnection. It visits the member although the row has not changed.
    assert await bench.one("SELECT reopen_at FROM reconnections") is None
    assert await bench.one("SELECT DISTINCT member_guid FROM changed_members") == "MBR-ann"
    assert await applied(bench, says("ann", "DENIED"), read_seconds_ago=-5) == Applied(unchanged=1)


async def test_an_answer_from_before_a_404_ends_no_rest(bench: Any) -> None:
    now = bench.runtime.clock.now()
    await reconnection(bench, "ann", state="gone", closed_at=now, reopen_at=NEVER)
    assert await applied(bench, says("ann", "DENIED"), read_seconds_ago=5) == Applied(overtaken=1)
    assert await bench.one("SELECT count(*) FROM reconnections WHERE reopen_at IS NOT NULL") == 1


async def test_what_was_given_up_otherwise_rests_on_although_mx_gives_the_member(bench: Any) -> None:
    now = bench.runtime.clock.now()
    for name, state in (("ann", "exhausted"), ("bea", "quarantined"), ("cid", "unsupported")):
        await reconnection(bench, name, state=state, closed_at=now - timedelta(hours=1), reopen_at=NEVER)
    said = [says(name, "DENIED", is_oauth=True) for name in ("ann", "bea", "cid")]
    assert await applied(bench, *said) == Applied(unchanged=3)
    assert await bench.one("SELECT count(*) FROM reconnections WHERE reopen_at IS NOT NULL") == 3


async def test_addresses_are_filled_where_ours_are_empty(bench: Any) -> None:
    await bench.sql(
        "INSERT INTO users (user_guid, email) VALUES ('USR-a', 'ours@mail.example'), ('USR-b', ' '), ('USR-c', NULL)"
    )
    listed = [MxUser(user_guid=f"USR-{name}", email=f"{name}@mx.example") for name in "abd"] + [
        MxUser(user_guid="USR-c")
    ]
    database = bench.runtime.database
    done = await database.transaction(lambda connection: database.rows.part(MxUsers).apply(connection, listed))
    assert done == (1, 2)
    found = {row[0]: row[1] for row in await bench.sql("SELECT user_guid, email FROM users")}
    assert found == {"USR-a": "ours@mail.example", "USR-b": "b@mx.example", "USR-c": None, "USR-d": "d@mx.example"}
    assert await database.transaction(lambda connection: database.rows.part(MxUsers).apply(connection, listed)) == (
        0,
        0,
    )
