"""A hint makes the worker read the member at MX. Only that answer changes rows, never the hint itself."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from worker.intake.webhooks import hints_in
from worker.mx.answers import Gone, RefusedClient, RejectedRequest, RetryLater
from worker.mx.retrying import NOT_ASKED
from worker.stages.fetch import fetch
from worker.stages.hints import hints
from worker.stages.sweep import sweep
from worker.stages.sync import sync_all
from worker.store.hints.claimed import HintResult
from worker.store.pauses import PauseStore
from worker.store.transactions.forget import ForgetStore
from worker.store.transactions.hints import HintStore, Reading

EACH = pytest.mark.each_database


async def hint(bench: Any, *said: dict[str, Any]) -> None:
    """Store these webhooks as hints, as the web process does."""
    store = bench.runtime.database.store(HintStore)
    await store.add([found for each in said for found in hints_in(json.dumps(each).encode())])
    await bench.runtime.set_clock()


def status(name: str, status: str = "DENIED", **more: Any) -> dict[str, Any]:
    return {
        "type": "CONNECTION_STATUS",
        "action": "CHANGED",
        "connection_status": status,
        "member_guid": f"MBR-{name}",
        "user_guid": f"USR-{name}",
    } | more


def aggregation(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "AGGREGATION", "action": "member_data_updated", "member_guid": f"MBR-{name}"} | more


async def outcomes(bench: Any) -> dict[str, Any]:
    rows = await bench.sql("SELECT member_guid, state, outcome FROM hints ORDER BY member_guid")
    return {row[0]: (row[1], row[2]) for row in rows}


async def reads(sandbox: Any) -> dict[str, int]:
    """How often each member was read."""
    ledger = await sandbox.get("/sandbox/ledger")
    return {guid: row["reads"] for guid, row in ledger["members"].items() if row["reads"]}


async def _read_again_soon(bench: Any) -> None:
    """Set the last readings a minute back. A member is read once in three seconds at most."""
    await bench.sql("UPDATE hints SET read_at = :at", at=bench.stored(bench.runtime.clock.now() - timedelta(minutes=1)))


@EACH
async def test_what_mx_says_now_opens_a_reconnection_at_once(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {"connection_status": "DENIED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="CONNECTED")
        await hint(bench, status("a", "IMPAIRED"))
        report = await hints(bench.runtime)
        assert report.startswith("opened 1, read 1, ")
        assert await bench.one("SELECT connection_status FROM members") == "DENIED"
        assert await bench.states() == {"MBR-a": "due"}
        assert bench.woken == [("fetch", 1)]
        assert await outcomes(bench) == {"MBR-a": ("done", "DENIED")}
        await hints(bench.runtime)
        assert await reads(sandbox) == {"MBR-a": 1}


@EACH
async def test_a_hint_that_is_late_or_doubled_opens_nothing(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {"connection_status": "CONNECTED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="CONNECTED")
        for _ in range(2):
            await hint(bench, status("a"), status("a"), status("a", "IMPAIRED"), aggregation("a"))
            await hints(bench.runtime)
            await sweep(bench.runtime)
            await _read_again_soon(bench)
        assert await bench.states() == {}
        assert await reads(sandbox) == {"MBR-a": 2}  # one for each of the two bursts of hints
        assert bench.woken == []


@EACH
async def test_an_aggregation_closes_what_is_open_and_stops_its_message(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {}, "b": {}}, aggregation_seconds=0) as sandbox:
        bench = await bench_for(**sandbox.settings)
        long_ago = bench.runtime.clock.now() - timedelta(days=1)
        for name in ("a", "b"):
            await bench.member(name, connection_status="CONNECTED", token_revoked_at=bench.moment(long_ago))
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await bench.states() == {"MBR-a": "ready", "MBR-b": "ready"}
        await sandbox.control(consent="MBR-a")
        await hint(bench, aggregation("a", job_guid="JOB-1"), aggregation("b", job_guid="JOB-2"))
        await hints(bench.runtime)
        assert await bench.states() == {"MBR-a": "reconnected", "MBR-b": "ready"}
        found = {row[0]: row[1] for row in await bench.sql("SELECT user_guid, state FROM notifications")}
        assert found == {"USR-a": "cancelled", "USR-b": "pending"}
        await sweep(bench.runtime)  # MX disproved the token's date, so the sweep opens nothing
        assert len(await bench.sql("SELECT 1 FROM reconnections")) == 2


@EACH
async def test_a_member_that_mx_does_not_know_any_more_is_gone(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {}, "here": {}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await sandbox.control(delete="MBR-a")
        deleted = {"type": "MEMBER", "action": "DELETED", "guid": "MBR-a", "user_guid": "USR-a"}
        await hint(
            bench, deleted, {"type": "MEMBER", "action": "DELETED", "guid": "MBR-never", "user_guid": "USR-here"}
        )
        await hints(bench.runtime)
        assert await bench.states() == {"MBR-a": "gone"}
        assert await outcomes(bench) == {"MBR-a": ("done", "gone"), "MBR-never": ("done", "unknown_to_mx")}
        await sweep(bench.runtime)
        assert await bench.states() == {"MBR-a": "gone"}


@EACH
@pytest.mark.parametrize("how", ["hint", "sync"])
async def test_one_wrong_404_silences_nobody_once_mx_gives_the_member_again(
    bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def gone(*_: str) -> Gone:
        return Gone()

    async with sandbox_for({"a": {"connection_status": "DENIED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED", is_oauth=True, institution_name="Alder Bank")
        await sync_all(bench.runtime, begin=True)
        await sweep(bench.runtime)
        with monkeypatch.context() as patch:
            patch.setattr(bench.runtime.mx, "oauth_window", gone)
            await fetch(bench.runtime)
        await sweep(bench.runtime)
        assert await bench.states() == {"MBR-a": "gone"}
        await bench.runtime.set_clock()
        if how == "hint":
            await hint(bench, status("a"))
            await hints(bench.runtime)
        else:
            found = await sync_all(bench.runtime, begin=True)
            assert found is not None
            assert "1 changed" in found.summary
            await sweep(bench.runtime)
        assert await bench.sql("SELECT state, outcome FROM reconnections ORDER BY id") == [
            ("gone", "not_found"),
            ("due", None),
        ]
        found = await sync_all(bench.runtime, begin=True)
        assert found is not None
        assert "nothing changed" in found.summary


@EACH
async def test_members_that_we_do_not_have_are_read_and_written_if_their_user_is_known(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"new": {}, "nobody": {}, "ours": {"connection_status": "CONNECTED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("ours", connection_status="DENIED")
        await hint(
            bench,
            status("new"),
            aggregation("nobody"),  # names no user
            {"type": "CONSENT_EXPIRING", "customer": {"user_guid": "USR-ours"}},
            {"type": "CONSENT_EXPIRING", "customer": {"user_guid": "USR-other"}},
            {"type": "BALANCE", "payload": {"memberGuid": "MBR-x"}},
        )
        await hints(bench.runtime)
        rows = await bench.sql("SELECT member_guid, user_guid, connection_status FROM members ORDER BY 1")
        assert [tuple(row) for row in rows] == [("MBR-new", "USR-new", "DENIED"), ("MBR-ours", "USR-ours", "CONNECTED")]
        assert await bench.states() == {"MBR-new": "due"}
        found = sorted(tuple(row) for row in await bench.sql("SELECT kind, state, outcome FROM hints"))
        assert found == [
            ("AGGREGATION", "done", "no_user"),
            ("BALANCE", "done", "no_user"),
            ("CONNECTION_STATUS", "done", "DENIED"),
            ("CONSENT_EXPIRING", "done", "CONNECTED"),
            ("CONSENT_EXPIRING", "done", "no_member"),
        ]


async def test_a_status_that_oauth_does_not_cure_cancels(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {"connection_status": "CHALLENGED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await hint(bench, status("a", "CHALLENGED"))
        await hints(bench.runtime)
        assert await bench.states() == {"MBR-a": "cancelled"}


async def test_a_member_that_broke_healed_and_broke_between_two_sweeps_is_opened_anew(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": {}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await bench.sql(
            "UPDATE reconnections SET state = 'exhausted', reopen_at = :never, closed_at = :now",
            never=bench.stored(bench.runtime.clock.now() + timedelta(days=9999)),
            now=bench.stored(bench.runtime.clock.now() - timedelta(days=1)),
        )
        for says, states in (("DENIED", ["exhausted"]), ("CONNECTED", ["exhausted"]), ("DENIED", ["exhausted", "due"])):
            await sandbox.control(member="MBR-a", connection_status=says)
            await hint(bench, status("a", says))
            await hints(bench.runtime)
            await _read_again_soon(bench)
            assert [row[0] for row in await bench.sql("SELECT state FROM reconnections ORDER BY id")] == states


@EACH
async def test_a_hint_that_comes_while_its_member_is_read_makes_it_be_read_again(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": {"connection_status": "CONNECTED"}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="CONNECTED")
        await hint(bench, status("a"), aggregation("a"))
        read = bench.runtime.mx.read_member

        async def read_and_break(user: str, member: str) -> Any:
            answer = await read(user, member)
            await sandbox.control(member="MBR-a", connection_status="DENIED")
            await hint(bench, status("a"))
            return answer

        bench.runtime.mx.read_member = read_and_break
        await hints(bench.runtime)
        bench.runtime.mx.read_member = read
        assert await bench.states() == {}
        assert bench.runtime.delayed_wakes.planned == 1  # for a moment at which the member may be read again
        assert sorted(row[0] for row in await bench.sql("SELECT state FROM hints")) == ["done", "due"]
        await hints(bench.runtime)
        assert await reads(sandbox) == {"MBR-a": 1}  # not within three seconds
        await _read_again_soon(bench)
        await hints(bench.runtime)
        assert await bench.states() == {"MBR-a": "due"}


@EACH
async def test_no_member_is_read_twice_at_once(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({f"m{n}": {"script": ["slow:0.3", "ok"]} for n in range(20)}) as sandbox:
        benches = [await bench_for(**sandbox.settings, batch_size=3) for _ in range(4)]
        names = [f"m{n}" for n in range(20)]
        await benches[0].members(*names, connection_status="CONNECTED")
        await hint(benches[0], *(status(name, says) for name in names for says in ("DENIED", "IMPAIRED", "LOCKED")))
        await asyncio.gather(*(hints(bench.runtime) for bench in benches))
        assert await reads(sandbox) == {f"MBR-m{n}": 1 for n in range(20)}
        assert {row[0] for row in await benches[0].sql("SELECT state FROM hints")} == {"done"}
        assert len(await benches[0].states()) == 20


class Answering:
    """MX without a network: the same answer to every request."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def read_member(self, _user: str, _member: str) -> Any:
        return self.answer

    async def close(self) -> None:
        pass


async def _answered(bench: Any, answer: Any, names: Any = "a") -> None:
    await bench.members(*names, connection_status="CONNECTED")
    await hint(bench, *(status(name) for name in names))
    await bench.runtime.mx.close()
    bench.runtime.mx = Answering(answer)
    await hints(bench.runtime)


@pytest.mark.parametrize(
    ("answer", "state", "attempts", "waits"),
    [
        (RetryLater(code="http_500"), "due", 1, True),
        (RetryLater(code="http_409", upstream=False), "due", 1, True),
        (RetryLater(code="http_429", after=30.0), "due", 0, True),
        (RetryLater(code=NOT_ASKED, upstream=False), "due", 0, True),
        (RefusedClient(code="http_401"), "due", 0, False),
        (RejectedRequest(code="http_422"), "failed", 1, False),
    ],
)
async def test_a_failure_of_mx_is_retried_and_counted_only_where_it_is_the_members(
    bench_for: Any, answer: Any, state: str, attempts: int, waits: bool
) -> None:
    bench = await bench_for()
    await _answered(bench, answer)
    row = (await bench.sql("SELECT state, attempts, outcome FROM hints"))[0]
    assert tuple(row) == (state, attempts, answer.code)
    now = bench.stored(bench.runtime.clock.now())
    assert await bench.one("SELECT count(*) FROM hints WHERE next_attempt_at > :now", now=now) == waits
    paused = await bench.sql("SELECT scope FROM pauses")
    assert [row[0] for row in paused] == (["mx"] if answer.code == "http_401" else [])
    assert await hints(bench.runtime) == "paused" if paused else True


async def test_the_last_attempt_fails_and_a_bad_day_of_mx_costs_none(bench_for: Any) -> None:
    bench = await bench_for(max_attempts=1)
    await _answered(bench, RetryLater(code="http_500"))
    assert (await outcomes(bench))["MBR-a"] == ("failed", "http_500")
    await bench.sql("DELETE FROM hints")
    await _answered(bench, RetryLater(code="http_500"), [f"n{n}" for n in range(40)])
    assert await bench.one("SELECT scope FROM pauses") == "mx"
    assert {(row[0], row[1]) for row in await bench.sql("SELECT state, attempts FROM hints")} == {("due", 0)}


async def test_what_a_dead_worker_held_is_read_and_what_kills_workers_is_given_up(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": {}, "b": {}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await hint(bench, status("a"), status("b"))
        store = bench.runtime.database.store(HintStore)
        taken = await store.claim(10, worker_id="dead", lease_seconds=-1, now=bench.runtime.clock.now())
        assert sorted(claim.guid for claim in taken) == ["MBR-a", "MBR-b"]
        assert await store.due(bench.runtime.clock.now(), at_most=5) == 2
        await bench.sql("UPDATE hints SET lost_leases = 5 WHERE member_guid = 'MBR-b'")
        await sweep(bench.runtime)
        assert ("sync", 1) in bench.woken
        await hints(bench.runtime)
        assert await outcomes(bench) == {"MBR-a": ("done", "DENIED"), "MBR-b": ("failed", "poison")}
        late = [
            Reading(result=HintResult(claim=claim, outcome="late"), read_at=bench.runtime.clock.now())
            for claim in taken
        ]
        await store.settle(late, now=bench.runtime.clock.now(), skip_aggregation=False)
        assert "late" not in repr(await outcomes(bench))


async def test_hints_wait_while_everything_is_paused_and_old_ones_are_forgotten(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": {}, "b": {}}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        now = bench.runtime.clock.now()
        await PauseStore(bench.runtime.database).set("everything", "by hand", now=now, probe_after=None)
        await hint(bench, status("a"))
        await hints(bench.runtime)
        await sweep(bench.runtime)
        assert (await outcomes(bench), bench.woken) == ({"MBR-a": ("due", None)}, [])
        await PauseStore(bench.runtime.database).lift("everything")
        await hints(bench.runtime)
        await bench.sql("UPDATE hints SET last_received_at = :at", at=bench.stored(now - timedelta(days=3)))
        await hint(bench, status("b"))
        await hints(bench.runtime)
        assert list(await outcomes(bench)) == ["MBR-b"]


async def test_nobody_is_told_of_a_burst_of_breaks(bench_for: Any, sandbox_for: Any) -> None:
    names = [f"m{n}" for n in range(60)]
    async with sandbox_for({name: {"institution_code": "alder"} for name in names}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("long", connection_status="DENIED")
        await sweep(bench.runtime)
        long_ago = bench.stored(bench.runtime.clock.now() - timedelta(days=6))
        await bench.sql("UPDATE reconnections SET opened_at = :at", at=long_ago)
        await bench.sql("UPDATE reconnections SET state = 'cancelled', closed_at = opened_at, next_attempt_at = NULL")
        await bench.sql("UPDATE members SET connection_status = 'CONNECTED'")
        await bench.members(*names, connection_status="CONNECTED")
        bench.woken.clear()
        await hint(bench, *(status(name) for name in names))
        await hints(bench.runtime)
        assert await bench.one("SELECT scope FROM pauses") == "outage:alder"
        assert bench.woken == []


async def test_rows_that_are_named_by_the_clients_own_ids_are_found(bench_for: Any, sandbox_for: Any) -> None:
    a = {"user_id": "customer-7", "member_id": "account-9"}
    async with sandbox_for({"a": a, "b": {"user_id": "customer-7", "user_guid": "USR-a"}}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform")
        await bench.sql("INSERT INTO users (user_guid) VALUES ('customer-7')")
        await bench.sql("INSERT INTO members (member_guid, user_guid) VALUES ('account-9', 'customer-7')")
        await hint(bench, status("a"), status("b", user_guid="USR-a"))
        await hints(bench.runtime)
        rows = await bench.sql("SELECT member_guid, user_guid, connection_status FROM members ORDER BY 1")
        assert [tuple(row) for row in rows] == [
            ("MBR-b", "customer-7", "DENIED"),
            ("account-9", "customer-7", "DENIED"),
        ]
        assert await bench.one("SELECT count(*) FROM users") == 1


async def test_what_a_hint_opens_and_closes_is_told_as_events(bench_for: Any, sandbox_for: Any) -> None:
    events = {"events_url": "http://127.0.0.1:9/events", "events_secrets": "whsec_" + "A" * 32}
    async with sandbox_for({"a": {}}) as sandbox:
        bench = await bench_for(**sandbox.settings, **events)
        for says in ("DENIED", "CHALLENGED"):
            await sandbox.control(member="MBR-a", connection_status=says)
            await hint(bench, status("a", says))
            await hints(bench.runtime)
            await _read_again_soon(bench)
        told = [row[0] for row in await bench.sql("SELECT type FROM events ORDER BY id")]
        assert told == ["reconnection.opened", "reconnection.cancelled"]


async def test_a_member_that_moved_is_known_by_either_guid(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["moved:MBR-new", "ok"]}, aggregation_seconds=0) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await hint(bench, status("a"), status("new", user_guid="USR-a"))
        await hints(bench.runtime)
        assert await bench.one("SELECT moved_to FROM members") == "MBR-new"
        await sandbox.control(consent="MBR-new")
        await _read_again_soon(bench)
        await hint(bench, aggregation("new", user_guid="USR-a"))
        await hints(bench.runtime)
        assert await bench.states() == {"MBR-a": "reconnected"}
        assert await bench.one("SELECT connection_status FROM members") == "CONNECTED"


@EACH
async def test_a_member_that_is_being_read_is_left_to_its_reader(bench_for: Any) -> None:
    bench = await bench_for()
    store = bench.runtime.database.store(HintStore)

    async def claimed() -> list[str]:
        now = bench.runtime.clock.now()
        return [claim.guid for claim in await store.claim(10, worker_id="w", lease_seconds=60, now=now)]

    await hint(bench, status("a"))
    assert await claimed() == ["MBR-a"]
    await hint(bench, status("a", "IMPAIRED"), status("b"))
    assert await claimed() == ["MBR-b"]


async def test_one_member_that_mx_rejects_hides_no_other_of_its_user(bench_for: Any, sandbox_for: Any) -> None:
    broken = {"user_guid": "USR-a", "connection_status": "DENIED"}
    async with sandbox_for({"a": broken, "b": broken}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.members("a", "b", user="a", connection_status="CONNECTED")
        real = bench.runtime.mx.read_member

        async def read(user: str, member: str) -> Any:
            return RejectedRequest(code="http_422") if member == "MBR-a" else await real(user, member)

        bench.runtime.mx.read_member = read
        await hint(bench, {"type": "CONSENT_REVOKED", "user_guid": "USR-a"})
        await hints(bench.runtime)
        assert await bench.states() == {"MBR-b": "due"}


async def test_forget_leaves_no_hint_of_a_user_with_an_own_id(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": {"user_id": "customer-7"}}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api="platform")
        await bench.sql("INSERT INTO users (user_guid) VALUES ('customer-7')")
        await hint(bench, status("a"))
        await hints(bench.runtime)
        await ForgetStore(bench.runtime.database).forget("customer-7")
        assert await bench.sql("SELECT member_guid FROM hints") == []
