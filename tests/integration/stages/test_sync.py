"""Sync: users and members are read from the sandbox over sockets."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from worker.stages import sync_pass_base, sync_passes, user_members
from worker.stages.sweep import wake
from worker.stages.sync import SyncEnded, sync, sync_all
from worker.stages.sync_one import sync_member, sync_user
from worker.store.syncs.store import SyncStore
from worker.store.syncs.sync import counts_in_words
from worker.store.transactions.forget import ForgetStore


def bank(users: int, *, second: int = 0, **more: Any) -> dict[str, Any]:
    """``users`` users with a member each; the first ``second`` of them have a second member."""
    rows: dict[str, Any] = {f"{n:04}": {"connection_status": "CONNECTED", **more} for n in range(users)}
    rows |= {f"x{n:04}": {"user_guid": f"USR-{n:04}", "connection_status": "DENIED", **more} for n in range(second)}
    return rows


async def everything(bench: Any, **options: Any) -> Any:
    result = await sync_all(bench.runtime, begin=True, **options)
    assert result is not None
    return result


async def members(bench: Any) -> dict[str, tuple[Any, ...]]:
    return {row[0]: tuple(row[1:]) for row in await bench.sql("SELECT * FROM members")}


async def test_it_writes_everybody_and_a_second_one_changes_no_row(sandbox_for: Any, bench_for: Any) -> None:
    async with sandbox_for(bank(60, second=30)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        first = await everything(bench)
        assert first.found["users"] == first.found["new_users"] == 60
        assert first.found["members"] == first.found["new_members"] == 90
        before = await members(bench)
        assert len(before) == 90
        asked = (await sandbox.get("/sandbox/ledger?members=false"))["lists"]
        assert asked == 1 + 60
        second = await everything(bench)
        assert "nothing changed" in second.summary
        assert await members(bench) == before
        last = await SyncStore(bench.runtime.database).last()
        assert last is not None
        assert (last.phase, last.summary) == ("finished", second.summary)
        assert await bench.one("SELECT count(*) FROM sync_users") == 0


async def test_what_is_not_listed_is_asked_for_before_it_counts_as_gone(sandbox_for: Any, bench_for: Any) -> None:
    async with sandbox_for(bank(60)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        await sandbox.control(delete=["MBR-0001", "USR-0002"], lists={"hide": ["MBR-0003", "USR-0004"]})
        found = (await everything(bench)).found
        assert (found["gone"], found["unlisted"]) == (2, 2)
        gone = {row[0] for row in await bench.sql("SELECT member_guid FROM members WHERE gone_at IS NOT NULL")}
        assert gone == {"MBR-0001", "MBR-0002"}
        # A member that is known to be gone is not asked for again, and its absence does not make the list count as shorter.
        await sandbox.control(lists={}, reset="ledger")
        assert "gone" not in counts_in_words((await everything(bench)).found)
        ledger = await sandbox.get("/sandbox/ledger?members=false")
        assert ledger["reads"] == ledger["lists"]


LIES = {
    "shorter": ({"shrink": 0.3}, "shorter by more than a tenth"),
    "shorter between pages": ({"shrink": 0.3, "after": 1}, "shorter by more than a tenth"),
    "pages repeat": ({"repeat": True, "most_per_page": 25}, "pages repeat"),
    "a total of nobody": ({"total": 0}, "shorter by more than a tenth"),
    "a total of too many": ({"total": 5_000}, "and holds 60 users"),
    "members on no list": ({"hide": [f"MBR-{n:04}" for n in range(12)]}, "12 of 60 members are on no list"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_list_that_lies_ends_it_in_a_clear_word_and_nobody_is_gone(
    sandbox_for: Any, bench_for: Any, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_passes, "USERS_A_PAGE", 30)
    rules, says = LIES[lie]
    async with sandbox_for(bank(60)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        before = await members(bench)
        await sandbox.control(lists=rules)
        with pytest.raises(SyncEnded, match=says):
            await everything(bench)
        assert await members(bench) == before
        last = await SyncStore(bench.runtime.database).last()
        assert last is not None
        assert last.phase == "failed"
        await sandbox.control(lists={})
        assert "nothing changed" in (await everything(bench)).summary


async def test_a_page_size_that_mx_lowers_is_noticed_and_nobody_is_missed(sandbox_for: Any, bench_for: Any) -> None:
    async with sandbox_for(bank(60)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await sandbox.control(lists={"most_per_page": 25})
        result = await everything(bench)
        assert (result.found["users"], result.lowered_to) == (60, 25)
        assert "MX serves 25 users a page" in result.summary


async def test_a_member_of_two_users_stays_with_the_one_that_it_has(sandbox_for: Any, bench_for: Any) -> None:
    async with sandbox_for(bank(50)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        before = await members(bench)
        await sandbox.control(lists={"also": {"USR-0007": ["MBR-0003"]}, "hide": ["MBR-0004"]})
        found = (await everything(bench)).found
        assert (found["other_user"], found["gone"]) == (1, 0)
        assert await members(bench) == before


async def test_users_that_fail_are_tried_again_and_left_out_in_the_end(sandbox_for: Any, bench_for: Any) -> None:
    async with sandbox_for(bank(40)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        await sandbox.control(fault="500", on="list")
        with pytest.raises(SyncEnded, match="http_500"):
            await everything(bench)
        last = await SyncStore(bench.runtime.database).last()
        assert last is not None
        assert last.phase == "listing"
        assert await bench.one("SELECT count(*) FROM pauses") == 0
        await sandbox.control(fault=None)
        assert "nothing changed" in (await everything(bench)).summary


async def test_it_goes_on_where_it_was(sandbox_for: Any, bench_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_passes, "USERS_A_PAGE", 50)
    monkeypatch.setattr(sync_pass_base, "BATCH", 20)
    async with sandbox_for(bank(150), latency=0.04) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_max_connections=10)
        runs = 0
        for _ in range(200):  # a busy machine does less in each
            runs += 1
            result = await everything(bench, seconds=0.15)
            if result.state == "finished":
                break
        assert runs > 1
        assert result.found["users"] == result.found["members"] == 150
        asked = (await sandbox.get("/sandbox/ledger?members=false"))["lists"]
        assert asked <= 150 + 3 + runs  # a page of users may be asked for once more with each run


async def test_one_user_and_one_member_alone(sandbox_for: Any, bench_for: Any) -> None:
    async with sandbox_for(bank(5, second=2)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        assert (await sync_user(bench.runtime, "USR-0001"))["new_members"] == 2
        with pytest.raises(SyncEnded, match="add --user"):
            await sync_member(bench.runtime, "MBR-0002")
        assert (await sync_member(bench.runtime, "MBR-0002", "USR-0002"))["new_members"] == 1
        await sandbox.control(delete=["MBR-x0001"])
        assert (await sync_user(bench.runtime, "USR-0001"))["gone"] == 1
        assert (await sync_member(bench.runtime, "MBR-0002"))["members"] == 1


async def test_two_at_once_do_not_meet(sandbox_for: Any, bench_for: Any) -> None:
    async with sandbox_for(bank(100), latency=0.02) as sandbox:
        bench, other = await bench_for(**sandbox.settings), await bench_for(**sandbox.settings)
        other.runtime.worker_id = "elsewhere:1"
        done = await asyncio.gather(everything(bench), everything(other), return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["Busy", "SyncResult"]


async def test_disabled_users_are_skipped_with_a_word(sandbox_for: Any, bench_for: Any) -> None:
    rows = bank(10)
    rows["0002"] |= {"user_is_disabled": True}
    async with sandbox_for(rows) as sandbox:
        bench = await bench_for(**sandbox.settings)
        result = await everything(bench)
        assert (result.found["disabled"], result.found["new_members"]) == (1, 9)
        assert "1 disabled users, whose members were skipped" in result.summary


async def test_platform_tells_more_and_what_is_named_by_the_clients_own_ids_keeps_them(
    sandbox_for: Any, bench_for: Any
) -> None:
    rows = bank(8)
    rows["0001"] |= {"is_managed_by_user": False}
    rows["0002"] |= {"connection_status": "DENIED", "error_code": 2004, "email": "two@mx.example"}
    rows["0003"] |= {"email": "three@mx.example", "user_id": "customer-3", "member_id": "account-3"}
    async with sandbox_for(rows) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform", sync_emails=True)
        await bench.sql("INSERT INTO users (user_guid, email) VALUES ('USR-0002', 'two@ours.example')")
        await bench.sql("INSERT INTO users (user_guid) VALUES ('customer-3')")
        await bench.sql("INSERT INTO members (member_guid, user_guid) VALUES ('account-3', 'customer-3')")
        found = (await everything(bench)).found
        assert (found["managed"], found["new_members"], found["changed"], found["emails"]) == (1, 6, 1, 1)
        emails = {
            row[0]: row[1] for row in await bench.sql("SELECT user_guid, email FROM users WHERE email IS NOT NULL")
        }
        assert emails == {"USR-0002": "two@ours.example", "customer-3": "three@mx.example"}
        found_member = await bench.sql(
            "SELECT user_guid, connection_status, moved_to FROM members WHERE member_guid = 'account-3'"
        )
        assert found_member == [("customer-3", "CONNECTED", None)]
        assert await bench.one("SELECT count(*) FROM members WHERE member_guid = 'MBR-0003'") == 0
        assert await bench.one("SELECT error_code FROM members WHERE member_guid = 'MBR-0002'") == 2004
        assert "nothing changed" in (await everything(bench)).summary


async def test_the_task_begins_one_only_when_it_is_due_and_a_sweep_wakes_what_waits(
    sandbox_for: Any, bench_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_pass_base, "BATCH", 10)
    async with sandbox_for(bank(100), latency=0.05) as sandbox:
        settings = sandbox.settings | {"mx_max_connections": 5, "run_seconds": 1}
        unscheduled = await bench_for(**settings)
        assert await sync(unscheduled.runtime) == ""
        assert "sync" not in await wake(unscheduled.runtime)
        bench = await bench_for(**settings, sync_schedule="0 3 * * *")
        assert (await sync(bench.runtime)).startswith("unfinished:")
        assert bench.woken == [("sync", 1)]
        await sandbox.control(latency=0)
        assert "sync" in await wake(bench.runtime)
        for _ in range(20):  # a busy machine may need more than one run
            if not (report := await sync(bench.runtime)).startswith("unfinished"):
                break
        assert report.startswith("finished: 100 users, 100 members")
        assert "sync" not in await wake(bench.runtime)
        assert await sync(bench.runtime) == ""  # not due before the next 03:00
        await bench.sql(
            "UPDATE syncs SET started_at = :t", t=bench.stored(bench.runtime.clock.now() - timedelta(days=1))
        )
        assert "nothing changed" in await sync(bench.runtime)


async def test_a_claim_that_needs_many_pages_of_a_slow_mx_does_not_outlast_its_task(
    sandbox_for: Any, bench_for: Any
) -> None:
    async with sandbox_for(bank(100), latency=0.3) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await sandbox.control(lists={"most_per_page": 10})
        result = await everything(bench, seconds=0.5)
        assert result.state == "unfinished"
        assert await bench.one("SELECT taken FROM syncs") < 100
        await sandbox.control(latency=0)
        assert (await everything(bench)).found["users"] == 100


async def test_a_member_that_moved_while_its_list_shows_the_new_guid_makes_no_second_row(
    sandbox_for: Any, bench_for: Any
) -> None:
    async with sandbox_for(
        {**bank(20), "old": {"script": ["moved:MBR-new", "ok"], "connection_status": "DENIED"}}
    ) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        answer = await bench.runtime.mx.oauth_window("USR-old", "MBR-old")
        assert answer.member.guid == "MBR-new"
        found = (await everything(bench)).found
        assert (found["moved"], found["new_members"], found["gone"]) == (1, 0, 0)
        assert await bench.one("SELECT moved_to FROM members WHERE member_guid = 'MBR-old'") == "MBR-new"
        assert "nothing changed" in (await everything(bench)).summary


async def test_a_user_with_more_members_than_fit_on_a_page_has_all_of_them(
    sandbox_for: Any, bench_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_members, "MEMBERS_A_PAGE", 30)
    rows = {f"{n:04}": {"user_guid": "USR-rich", "connection_status": "CONNECTED"} for n in range(100)}
    async with sandbox_for(rows) as sandbox:
        bench = await bench_for(**sandbox.settings)
        assert (await everything(bench)).found["new_members"] == 100
        await sandbox.control(lists={"most_per_page": 25})  # MX lowers the page size; only its answer shows that
        assert "nothing changed" in (await everything(bench)).summary
        await sandbox.control(lists={"most_per_page": 25, "repeat": True})
        found = (await everything(bench)).found
        assert (found["contradicted"], found["gone"], found["unlisted"]) == (1, 0, 0)


async def test_a_sync_in_hand_writes_nobody_who_was_forgotten(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for(bank(3)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        await sandbox.control(member=["MBR-0001"], connection_status="DENIED")
        real = bench.runtime.mx.list_members

        async def listing(user: str, page: int, per_page: int) -> Any:
            answer = await real(user, page, per_page)
            if user == "USR-0001":
                await sandbox.control(delete=["USR-0001"])
                await ForgetStore(bench.runtime.database).forget("USR-0001")
            return answer

        bench.runtime.mx.list_members = listing
        await everything(bench)
        assert await bench.sql("SELECT 1 FROM members WHERE user_guid = 'USR-0001'") == []
        assert await bench.sql("SELECT 1 FROM users WHERE user_guid = 'USR-0001'") == []


async def test_forget_leaves_nothing_of_an_unfinished_sync(
    bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sandbox_for(bank(50)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await everything(bench)
        await sandbox.control(lists={"also": {"USR-0007": ["MBR-0003"]}})

        async def killed(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(SyncStore, "go_to", killed)
        with pytest.raises(KeyboardInterrupt):
            await everything(bench)
        await ForgetStore(bench.runtime.database).forget("USR-0003")
        assert await bench.sql("SELECT 1 FROM sync_missing WHERE member_guid = 'MBR-0003'") == []
