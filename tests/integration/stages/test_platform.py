"""The stages on Platform. Its answer to a request for a window does not contain the member's status."""

from datetime import timedelta
from typing import Any

import pytest

from tests.integration.stages.links import linked
from tests.integration.stages.test_click import ANSWERS, press
from worker.stages.click import Back, LeadsTo
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.stages.sync import sync_all
from worker.stages.verify import verify

BASE = "https://reconnect.example.com"


async def _asked(sandbox: Any) -> tuple[int, int]:
    """How many windows and how many members MX was asked for since the last call."""
    ledger = await sandbox.get("/sandbox/ledger?members=false")
    assert ledger["flavours"].keys() <= {"platform"}
    await sandbox.control(reset="ledger")
    return ledger["window_requests"], ledger["reads"]


@pytest.mark.parametrize("public", [None, BASE])
async def test_whoever_is_back_gets_no_message_and_the_others_cost_one_request_more(
    bench_for: Any, sandbox_for: Any, public: str | None
) -> None:
    async with sandbox_for({"a": ["ok"], "back": ["connected"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform", public_base_url=public)
        for name in ("a", "back"):
            await bench.member(name, connection_status="DENIED", institution_name="Alder Bank")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await _asked(sandbox) == (2, 0)
        assert await bench.states() == {"MBR-a": "ready", "MBR-back": "ready"}
        await deliver(bench.runtime)
        assert await _asked(sandbox) == (0, 2)
        assert await bench.states() == {"MBR-a": "notified", "MBR-back": "reconnected"}
        assert [mail["recipients"] for mail in await sandbox.mails()] == [["a@mail.example"]]
        assert await bench.one("SELECT outcome FROM reconnections WHERE state = 'reconnected'") == "back_before_message"
        assert await bench.one("SELECT connection_status FROM members WHERE member_guid = 'MBR-back'") == "CONNECTED"


async def test_before_a_new_window_is_asked_for_the_member_is_read(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}, aggregation_seconds=0) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform", uri_max_age="1s")
        for name in ("a", "b"):
            await bench.member(name, connection_status="DENIED", institution_name="Alder Bank")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await bench.sql("UPDATE windows SET fetched_at = '2020-01-01 00:00:00'")
        await sandbox.control(consent="MBR-b")
        await bench.sql("UPDATE reconnections SET broken_since = '2020-01-01 00:00:00'")
        await _asked(sandbox)
        await deliver(bench.runtime)
        assert await _asked(sandbox) == (1, 2)
        assert await bench.states() == {"MBR-a": "notified", "MBR-b": "reconnected"}
        assert len(await sandbox.mails()) == 1


async def test_a_member_that_cannot_be_read_is_left_out_of_the_message(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform")
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await sandbox.control(fault="500", on="read")
        await deliver(bench.runtime)
        assert await sandbox.mails() == []
        assert await bench.states() == {"MBR-a": "due"}


async def test_each_answer_of_mx_does_at_a_click_what_it_does_on_atrium(bench_for: Any, sandbox_for: Any) -> None:
    names = {
        step: f"m{n}" for n, step in enumerate(ANSWERS) if step not in {"401", "403", "406", "429", "429:7", "503:90"}
    }
    async with sandbox_for({name: [step] for step, name in names.items()}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform")
        for step, name in names.items():
            gets, becomes, is_owed = ANSWERS[step]
            token, id_ = await linked(bench, name, state="notified", attempts=7)
            answer = await press(bench, token)
            if gets is LeadsTo:
                assert isinstance(answer, LeadsTo), step
            else:
                assert answer == (Back(f"Bank {name}") if isinstance(gets, Back) else gets), step
            (row,) = await bench.sql("SELECT state, owed_at, moved_to FROM reconnections WHERE id = :i", i=id_)
            assert (row.state, row.owed_at is not None) == (becomes or "notified", is_owed), step
            assert row.moved_to == ("MBR-anew" if step.startswith("moved") else None), step


async def test_wrong_credentials_stop_everybody(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform", mx_api_key="wrong")
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await bench.one("SELECT reason FROM pauses WHERE scope = 'mx'") == "http_401"
        assert await bench.one("SELECT attempts FROM reconnections") == 0


async def test_members_and_users_may_go_by_the_applications_own_ids(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {"member_id": "ours-1", "user_id": "u-1"}}, aggregation_seconds=0) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform")
        await bench.sql("INSERT INTO users (user_guid, email) VALUES ('u-1', 'a@mail.example')")
        await bench.sql(
            "INSERT INTO members (member_guid, user_guid, institution_code, connection_status) "
            "VALUES ('ours-1', 'u-1', 'alder', 'DENIED')"
        )
        for stage in (sweep, fetch, deliver):
            await stage(bench.runtime)
        (row,) = await bench.sql("SELECT member_guid, state, moved_to FROM reconnections")
        assert tuple(row) == ("ours-1", "notified", None)
        assert await _asked(sandbox) == (1, 1)
        await sandbox.control(consent="MBR-a")
        past = bench.runtime.clock.now() - timedelta(days=1)
        await bench.sql("UPDATE reconnections SET next_check_at = :m, broken_since = :m", m=bench.stored(past))
        await verify(bench.runtime)
        assert await bench.states() == {"ours-1": "reconnected"}
        assert await bench.one("SELECT connection_status FROM members") == "CONNECTED"


async def test_a_sync_fills_addresses_and_finds_rows_by_guid_and_by_own_id(bench_for: Any, sandbox_for: Any) -> None:
    own = {"member_id": "ours-1", "user_id": "u-1", "email": "a@mail.example", "is_oauth": True}
    async with sandbox_for({"a": own, "b": {"email": "b@mail.example"}, "c": {"is_managed_by_user": False}}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform", sync_emails=True)
        await bench.sql("INSERT INTO users (user_guid, locale) VALUES ('u-1', 'es')")
        await bench.sql("INSERT INTO members (member_guid, user_guid) VALUES ('ours-1', 'u-1')")
        for _ in range(2):
            await sync_all(bench.runtime, begin=True)
            rows = await bench.sql("SELECT member_guid, user_guid, connection_status FROM members ORDER BY 1")
            assert sorted(map(tuple, rows)) == [("MBR-b", "USR-b", "DENIED"), ("ours-1", "u-1", "DENIED")]
            users = await bench.sql("SELECT user_guid, email FROM users WHERE email IS NOT NULL ORDER BY 1")
            assert sorted(map(tuple, users)) == [("USR-b", "b@mail.example"), ("u-1", "a@mail.example")]
        ledger = await sandbox.get("/sandbox/ledger?members=false")
        assert ledger["flavours"].keys() == {"platform"}
