"""Fetching from the sandbox's MX over real sockets, on both databases."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from worker.mx.client import MOST_GONE
from worker.mx.retrying import begin_within
from worker.stages.deliver import deliver
from worker.stages.fetch import Fetch, fetch
from worker.stages.run_mode import RunMode
from worker.stages.sweep import sweep
from worker.store.pauses import MX, PauseStore
from worker.store.transactions.fetch import FetchStore


async def _broken(bench: Any, *names: str, **columns: Any) -> None:
    await bench.members(*names, connection_status="DENIED", **columns)
    await sweep(bench.runtime)


async def test_a_window_is_stored_encrypted_together_with_its_notification(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a")
        assert (await fetch(bench.runtime)).startswith("ready 1, ")
        assert await bench.states() == {"MBR-a": "ready"}
        stored = await bench.one("SELECT uri FROM windows WHERE superseded_at IS NULL")
        assert "http" not in stored
        assert bench.runtime.vault.decrypt(stored).startswith("https://")
        rows = await bench.sql("SELECT user_guid, channel, state FROM notifications")
        assert [tuple(row) for row in rows] == [("USR-a", "email", "pending")]
        assert bench.woken[-1] == ("deliver", 1)


#: By MX's answer: the reconnection's state and outcome afterwards.
ANSWERED = {
    "unsupported": ("unsupported", "member_cannot_use_oauth"),
    "gone": ("gone", "not_found"),
    "rejected": ("quarantined", "http_422"),
    "hostile:userinfo": ("quarantined", "uri_user_info"),
    "hostile:http": ("quarantined", "uri_not_https"),
    "hostile:quote": ("quarantined", "uri_delimiter"),
    "hostile:angle": ("quarantined", "uri_delimiter"),
    "connected": ("reconnected", "back_already"),
    "500": ("due", "http_500"),
    "null_uri": ("due", "no_uri"),
    "html": ("due", "not_json"),
}


async def test_what_mx_answers_decides_how_it_ends(bench_for: Any, sandbox_for: Any) -> None:
    names = {f"m{number}": [answer] for number, answer in enumerate(ANSWERED)}
    async with sandbox_for(names) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, *names)
        await fetch(bench.runtime)
        rows = await bench.sql("SELECT member_guid, state, outcome, attempts FROM reconnections")
        found = {names[row[0].removeprefix("MBR-")][0]: tuple(row[1:]) for row in rows}
        assert found == {
            answer: (state, outcome, 1 if state == "due" else 0) for answer, (state, outcome) in ANSWERED.items()
        }
        assert await bench.one("SELECT count(*) FROM notifications") == 0
        # A second sweep opens nothing.
        defer = await sweep(bench.runtime)
        assert defer is not None
        assert defer.opened == 0


async def test_a_member_that_is_back_is_marked_well(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["connected"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a", token_revoked_at=bench.moment(bench.runtime.clock.now() - timedelta(days=1)))
        await fetch(bench.runtime)
        row = (await bench.sql("SELECT connection_status, token_revoked_at FROM members"))[0]
        assert tuple(row) == ("CONNECTED", None)


async def test_a_moved_member_is_recorded_and_asked_for_under_its_new_guid(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["moved:MBR-other"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a")
        await fetch(bench.runtime)
        assert await bench.one("SELECT moved_to FROM reconnections") == "MBR-other"
        assert await bench.one("SELECT member_guid FROM windows") == "MBR-other"


async def test_one_person_with_three_broken_banks_gets_one_message(bench_for: Any, sandbox_for: Any) -> None:
    people = {name: {"user_guid": "USR-p", "script": ["ok"]} for name in ("a", "b", "c")}
    async with sandbox_for(people) as sandbox:
        bench = await bench_for(**sandbox.settings)
        for name in people:
            await bench.member(name, user="p", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await bench.one("SELECT count(*) FROM notifications") == 1
        assert await bench.one("SELECT count(*) FROM notification_reconnections") == 3
        await deliver(bench.runtime)
        assert len(await sandbox.mails()) == 1
        assert set((await bench.states()).values()) == {"notified"}


async def test_a_bank_still_in_its_grace_is_told_along_with_one_that_is_due(bench_for: Any, sandbox_for: Any) -> None:
    people = {name: {"user_guid": "USR-p", "script": ["ok"]} for name in ("old", "new")}
    async with sandbox_for(people) as sandbox:
        bench = await bench_for(**sandbox.settings, notify_after="1h")
        now = bench.runtime.clock.now()
        await bench.member("old", user="p", token_revoked_at=bench.moment(now - timedelta(hours=2)))
        await bench.member("new", user="p", token_revoked_at=bench.moment(now - timedelta(minutes=2)))
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await bench.states() == {"MBR-old": "ready", "MBR-new": "ready"}
        assert await bench.one("SELECT count(*) FROM notifications") == 1


@pytest.mark.parametrize(
    ("columns", "outcome"),
    [({"email": None}, "no_address"), ({"channel": "none"}, "opted_out"), ({"refused": True}, "address_refused")],
)
async def test_nothing_is_minted_for_people_who_cannot_be_told(
    bench_for: Any, sandbox_for: Any, columns: dict[str, Any], outcome: str
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED", email=columns.get("email", ""))
        if "channel" in columns:
            await bench.sql("UPDATE users SET channel = 'none'")
        if "refused" in columns:
            await bench.sql("UPDATE users SET refused_email = email")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        row = (await bench.sql("SELECT state, outcome, attempts FROM reconnections"))[0]
        assert tuple(row) == ("due", outcome, 0)
        assert (await sandbox.get("/sandbox/ledger"))["requests"] == 0


async def test_in_quiet_hours_nothing_is_minted_and_the_reconnection_is_due_when_they_end(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        now = bench.runtime.clock.now()
        quiet = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}"
        bench = await bench_for(**sandbox.settings, quiet_hours=quiet)
        await _broken(bench, "a")
        await fetch(bench.runtime)
        row = (await bench.sql("SELECT state, outcome FROM reconnections"))[0]
        assert tuple(row) == ("due", "quiet_hours")
        assert (await sandbox.get("/sandbox/ledger"))["requests"] == 0


async def test_a_cap_puts_the_next_message_off(bench_for: Any, sandbox_for: Any) -> None:
    people = {name: {"user_guid": "USR-p", "script": ["ok"]} for name in ("a", "b")}
    async with sandbox_for(people) as sandbox:
        bench = await bench_for(**sandbox.settings, message_caps="1/24h")
        await bench.member("a", user="p", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        await bench.member("b", user="p", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        rows = await bench.sql("SELECT outcome, state FROM reconnections WHERE member_guid = 'MBR-b'")
        assert [tuple(row) for row in rows] == [("message_cap", "due")]
        assert len(await sandbox.mails()) == 1


async def test_a_refused_client_stops_everyone_and_spends_no_attempts(bench_for: Any, sandbox_for: Any) -> None:
    names = [f"m{number}" for number in range(40)]
    async with sandbox_for({name: ["ok"] for name in names}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api_key="wrong", mx_max_connections=4, batch_size=10)
        await _broken(bench, *names)
        await fetch(bench.runtime)
        rows = await bench.sql("SELECT state, attempts, count(*) FROM reconnections GROUP BY state, attempts")
        assert [tuple(row) for row in rows] == [("due", 0, 40)]
        pause = await PauseStore(bench.runtime.database).get(MX)
        assert pause is not None
        assert pause.reason == "http_401"
        asked = (await sandbox.get("/sandbox/ledger"))["requests"]
        assert asked < 40
        # While the breaker is open, fetch sends MX no request and the sweep wakes no fetch.
        assert await fetch(bench.runtime) == "paused: http_401"
        bench.woken.clear()
        await sweep(bench.runtime)
        assert bench.woken == []
        assert (await sandbox.get("/sandbox/ledger"))["requests"] == asked


async def test_a_probe_with_good_keys_closes_the_breaker_and_the_work_goes_on(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a", "b")
        await sandbox.control(keys="revoke")
        await fetch(bench.runtime)
        await sandbox.control(keys="restore")
        await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
        await sweep(bench.runtime)
        assert ("fetch", 1) in bench.woken
        await fetch(bench.runtime)
        assert await PauseStore(bench.runtime.database).get(MX) is None
        assert ("fetch", 1) in bench.woken[-2:]
        await fetch(bench.runtime)
        assert set((await bench.states()).values()) == {"ready"}


_ONE_IS_BAD = pytest.mark.parametrize("step", ["500", "503", "reset"])


async def _probe(bench: Any) -> None:
    await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
    await fetch(bench.runtime)


async def _paused(bench: Any) -> None:
    streak = "a failure streak, the last http_503"
    await PauseStore(bench.runtime.database).set(MX, streak, now=bench.runtime.clock.now(), probe_after=timedelta(0))


@_ONE_IS_BAD
@pytest.mark.parametrize("banks", [1, 2], ids=["alone", "with another bank of the same user"])
async def test_a_member_that_mx_fails_for_does_not_keep_it_paused_for_the_others(
    bench_for: Any, sandbox_for: Any, step: str, banks: int
) -> None:
    scripts = {"bad": step, "beside": "ok", "other": "ok"}
    users = dict.fromkeys(list(scripts)[:banks], "p")
    people = {
        name: {"user_guid": f"USR-{users.get(name, name)}", "script": [script]} for name, script in scripts.items()
    }
    async with sandbox_for(people) as sandbox:
        bench = await bench_for(**sandbox.settings)
        for name in scripts:
            await bench.member(name, user=users.get(name), connection_status="DENIED")
            await sweep(bench.runtime)
        await _paused(bench)
        for _ in range(3):
            await _probe(bench)
        assert await PauseStore(bench.runtime.database).get(MX) is None
        states = await bench.states()
        assert states.pop("MBR-bad") == "due"
        assert set(states.values()) == {"ready"}


@_ONE_IS_BAD
async def test_a_member_that_mx_fails_for_and_that_alone_is_due_comes_to_an_end(
    bench_for: Any, sandbox_for: Any, step: str
) -> None:
    async with sandbox_for({"bad": [step]}) as sandbox:
        bench = await bench_for(**sandbox.settings, max_attempts=2)
        await _broken(bench, "bad")
        await _paused(bench)
        await _probe(bench)
        await _probe(bench)
        assert await PauseStore(bench.runtime.database).get(MX) is None
        assert await bench.one("SELECT attempts FROM reconnections") == 1
        await bench.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00'")
        await fetch(bench.runtime)
        assert await bench.states() == {"MBR-bad": "exhausted"}
        assert await PauseStore(bench.runtime.database).get(MX) is None


async def test_while_mx_serves_nobody_probes_cost_nobody_an_attempt(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a", "b")
        await _paused(bench)
        await sandbox.control(fault="503")
        for _ in range(5):
            await _probe(bench)
        assert await PauseStore(bench.runtime.database).get(MX) is not None
        assert await bench.one("SELECT max(attempts) FROM reconnections") == 0


async def test_with_nobody_due_the_breaker_is_closed_by_a_request_for_nobody(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        pauses, now = PauseStore(bench.runtime.database), bench.runtime.clock.now()
        await pauses.set(MX, "http_401", now=now, probe_after=timedelta(0))
        await sandbox.control(keys="revoke")
        await fetch(bench.runtime)
        assert await pauses.get(MX) is not None
        await sandbox.control(keys="restore")
        await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
        await fetch(bench.runtime)
        assert await pauses.get(MX) is None


async def test_the_breaker_is_closed_by_a_request_for_nobody_where_whoever_is_first_cannot_be_told_now(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a")
        await bench.sql("UPDATE users SET email = NULL")
        pauses, now = PauseStore(bench.runtime.database), bench.runtime.clock.now()
        await pauses.set(MX, "http_401", now=now, probe_after=timedelta(0))
        await fetch(bench.runtime)
        assert await pauses.get(MX) is None
        assert await bench.one("SELECT outcome FROM reconnections") == "no_address"


async def test_results_of_a_lost_lease_change_nothing(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a")
        stage = Fetch(bench.runtime, _NoBreaker())  # type: ignore[arg-type]
        jobs = (await stage.claim(10)).jobs
        done = [await stage.work(job) for job in jobs]
        # The lease expires, and another worker claims the row.
        await bench.sql("UPDATE reconnections SET lease_expires_at = '2020-01-01 00:00:00'")
        await sweep(bench.runtime)
        now = bench.runtime.clock.now()
        store = FetchStore(bench.runtime.database)
        taken = await store.claim_poison(10, worker_id="other", lease_seconds=60, now=now)
        assert len(taken) == 1
        await stage.settle(done)
        row = (await bench.sql("SELECT state, lease_worker FROM reconnections"))[0]
        assert tuple(row) == ("leased", "other")
        assert await bench.one("SELECT count(*) FROM windows") == 0
        assert await bench.one("SELECT count(*) FROM notifications") == 0


async def test_no_more_is_claimed_than_pacing_can_finish_with_what_waits_already(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({"m": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_requests_per_second=8)
        await _broken(bench, *(f"m{number:02}" for number in range(60)))
        stage = Fetch(bench.runtime, _NoBreaker())  # type: ignore[arg-type]
        room = bench.runtime.pacing.affordable(begin_within(bench.runtime.mx_deadline))
        assert 5 < room < 60
        jobs = (await stage.claim(60)).jobs
        assert len(jobs) == room
        stage.runner._waiting.extend(jobs)
        assert list((await stage.claim(60)).jobs) == []
        assert await bench.one("SELECT count(*) FROM reconnections WHERE state = 'leased'") == room


async def test_claims_side_by_side_bring_each_person_in_one_piece(bench_for: Any) -> None:
    bench = await bench_for()
    # In the order of claiming, a user's banks are 20 rows apart.
    for bank in range(3):
        for user in range(20):
            await bench.member(f"{bank}-{user:02}", user=f"p{user:02}", connection_status="DENIED")
    await sweep(bench.runtime)
    store, now = FetchStore(bench.runtime.database), bench.runtime.clock.now()
    lease = {"worker_id": "me", "lease_seconds": 60, "now": now, "soon": now + timedelta(days=1)}
    claims = await asyncio.gather(*(store.claim(5, **lease) for _ in range(5)))
    while left := await store.claim(5, **lease):
        claims.append(left)
    owners = [{claim.user_guid for claim in taken} for taken in claims]
    assert sum(map(len, claims)) == 60
    assert sum(map(len, owners)) == 20


async def _hold(bench: Any, gate: str) -> None:
    """Make it impossible to claim MBR-held."""
    now = bench.runtime.clock.now()
    if gate.startswith(("institution:", "outage:")):
        await PauseStore(bench.runtime.database).set(gate, "held", now=now, probe_after=timedelta(hours=1))
        return
    column, value = {
        "poison": ("lost_leases", 1),
        "ramp": ("outcome", "outage_over"),
        "leased": ("state", "leased"),
        "ready": ("state", "ready"),
    }[gate]
    at = bench.stored(now + timedelta(minutes=30) if gate == "ramp" else now)
    await bench.sql(
        f"UPDATE reconnections SET {column} = :value, next_attempt_at = :at WHERE member_guid = 'MBR-held'",
        value=value,
        at=at,
    )


@pytest.mark.each_database
@pytest.mark.parametrize("gate", ["institution:birch", "outage:birch", "poison", "ramp", "leased", "ready"])
async def test_what_keeps_a_reconnection_from_being_claimed_keeps_it_from_being_taken_along(
    bench_for: Any, gate: str
) -> None:
    bench = await bench_for()
    for name, code in (("held", "birch"), ("free", "alder")):
        await bench.member(name, user="p", institution_code=code, connection_status="DENIED")
    await sweep(bench.runtime)
    await _hold(bench, gate)
    store = FetchStore(bench.runtime.database)
    for since in (timedelta(0), timedelta(hours=1)):  # first the held bank is due first, then the free one
        now = bench.runtime.clock.now()
        at = bench.stored(now - since)
        await bench.sql("UPDATE reconnections SET next_attempt_at = :at WHERE member_guid = 'MBR-free'", at=at)
        claims = await store.claim(10, worker_id="me", lease_seconds=60, now=now, soon=now + timedelta(days=1))
        assert [claim.member_guid for claim in claims] == ["MBR-free"]
        await store.release(claims)


async def test_a_reminder_of_a_held_bank_is_not_taken_along(bench_for: Any, sandbox_for: Any) -> None:
    people = {name: {"user_guid": "USR-p", "script": ["ok"]} for name in ("held", "free")}
    async with sandbox_for(people) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("held", user="p", institution_code="birch", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        now = bench.runtime.clock.now()
        await bench.sql("UPDATE reconnections SET next_attempt_at = :soon", soon=bench.stored(now + timedelta(hours=2)))
        await _hold(bench, "institution:birch")
        await bench.member("free", user="p", institution_code="alder", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await bench.states() == {"MBR-held": "notified", "MBR-free": "ready"}


@pytest.mark.parametrize("scope", ["everything", "mx"])
async def test_nothing_is_claimed_while_everything_or_mx_is_paused(bench_for: Any, scope: str) -> None:
    bench = await bench_for()
    await _broken(bench, "a")
    now = bench.runtime.clock.now()
    await PauseStore(bench.runtime.database).set(scope, "held", now=now)
    stage = Fetch(bench.runtime, _NoBreaker())  # type: ignore[arg-type]
    assert (await stage.claim(10)).jobs == []


async def test_a_run_of_failures_opens_the_breaker_and_spends_no_attempts(bench_for: Any, sandbox_for: Any) -> None:
    names = [f"m{number:03}" for number in range(120)]
    async with sandbox_for({name: ["ok"] for name in names}) as sandbox:
        await sandbox.control(fault="503")
        bench = await bench_for(**sandbox.settings, mx_max_connections=60, batch_size=60)
        await _broken(bench, *names)
        await fetch(bench.runtime)
        pause = await PauseStore(bench.runtime.database).get(MX)
        assert pause is not None
        assert "http_503" in pause.reason
        assert await bench.one("SELECT sum(attempts) FROM reconnections") == 0
        assert set((await bench.states()).values()) == {"due"}
        # Half open: MX is asked for one member, and its answer decides whether the breaker closes.
        before = (await sandbox.get("/sandbox/ledger?members=true"))["members"]
        await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
        await fetch(bench.runtime)
        after = (await sandbox.get("/sandbox/ledger?members=true"))["members"]
        asked = [
            guid
            for guid, counts in after.items()
            if counts["requests"] != before.get(guid, {"requests": 0})["requests"]
        ]
        assert len(asked) == 1
        assert await PauseStore(bench.runtime.database).get(MX) is not None
        await sandbox.control(fault=None)
        await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
        await fetch(bench.runtime)
        assert await PauseStore(bench.runtime.database).get(MX) is None
        await fetch(bench.runtime)
        assert set((await bench.states()).values()) == {"ready"}
        assert await bench.one("SELECT sum(attempts) FROM reconnections") == 0


async def test_a_row_that_takes_its_workers_down_is_set_aside_and_its_slice_mates_are_served(
    bench_for: Any, sandbox_for: Any
) -> None:
    names = [f"m{number:02}" for number in range(40)]
    async with sandbox_for({name: ["ok"] for name in names}) as sandbox:
        bench = await bench_for(**sandbox.settings, batch_size=32)
        await _broken(bench, *names)
        slices = []
        for _ in range(30):
            # A worker claims a batch. It dies if MBR-m07 is in it, and its leases are recovered.
            stage = Fetch(bench.runtime, _NoBreaker(), mode=RunMode.WORK)  # type: ignore[arg-type]
            jobs = (await stage.claim(32)).jobs
            if not jobs:
                stage = Fetch(bench.runtime, _NoBreaker(), mode=RunMode.POISON)  # type: ignore[arg-type]
                jobs = (await stage.claim(32)).jobs
            if not jobs:
                break
            members = {claim.member_guid for job in jobs for claim in job.claims}
            if "MBR-m07" in members:
                slices.append(len(members))
                await bench.sql(
                    "UPDATE reconnections SET lease_expires_at = '2020-01-01 00:00:00' WHERE state = 'leased'"
                )
                await sweep(bench.runtime)
            else:
                await stage.settle([await stage.work(job) for job in jobs])
        assert slices == [32, 32, 4, 1, 1, 1]
        states = await bench.states()
        assert states.pop("MBR-m07") == "quarantined"
        assert set(states.values()) == {"ready"}
        assert await bench.one("SELECT outcome FROM reconnections WHERE state = 'quarantined'") == "poison"


async def test_rows_that_a_killed_worker_held_are_worked_off_in_the_same_task(bench_for: Any, sandbox_for: Any) -> None:
    names = [f"m{number:02}" for number in range(40)]
    async with sandbox_for({name: ["ok"] for name in names}) as sandbox:
        bench = await bench_for(**sandbox.settings, batch_size=32)
        await _broken(bench, *names)
        await bench.sql("UPDATE reconnections SET lost_leases = 1 WHERE member_guid < 'MBR-m20'")
        assert (await fetch(bench.runtime)).startswith("ready 40, ")
        assert await bench.one("SELECT sum(lost_leases) FROM reconnections") == 0


async def test_too_many_requests_spend_nobodys_attempts(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["429:120"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _broken(bench, "a")
        await fetch(bench.runtime)
        row = (await bench.sql("SELECT state, attempts, outcome FROM reconnections"))[0]
        assert tuple(row) == ("due", 0, "http_429")


async def test_attempts_run_out_after_max_attempts(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["409"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, max_attempts=2)
        await _broken(bench, "a")
        await fetch(bench.runtime)
        await bench.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00'")
        await fetch(bench.runtime)
        row = (await bench.sql("SELECT state, attempts FROM reconnections"))[0]
        assert tuple(row) == ("exhausted", 2)


async def test_paused_institutions_are_left_alone(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED", institution_code="alder")
        await bench.member("b", connection_status="DENIED", institution_code="cobalt")
        await sweep(bench.runtime)
        await PauseStore(bench.runtime.database).set("institution:alder", "maintenance", now=bench.runtime.clock.now())
        await fetch(bench.runtime)
        assert await bench.states() == {"MBR-a": "due", "MBR-b": "ready"}


async def test_two_fetches_at_once_share_the_work(bench_for: Any, sandbox_for: Any) -> None:
    import asyncio

    names = [f"m{number}" for number in range(60)]
    async with sandbox_for({name: ["ok"] for name in names}) as sandbox:
        benches = [await bench_for(**sandbox.settings, batch_size=10) for _ in range(3)]
        await _broken(benches[0], *names)
        await asyncio.gather(*(fetch(bench.runtime) for bench in benches))
        assert set((await benches[0].states()).values()) == {"ready"}
        ledger = await sandbox.get("/sandbox/ledger")
        assert ledger["windows_minted"] == 60
        assert await benches[0].one("SELECT count(*) FROM notifications") == 60


class _NoBreaker:
    tripped = False

    async def settle(self, *_: Any, **__: Any) -> None:
        pass

    def went_well(self) -> None:
        pass


async def test_a_wrong_address_of_mx_ends_a_few_reconnections_and_not_all(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"m0": ["ok"]}) as sandbox:
        bench = await bench_for(**(sandbox.settings | {"mx_base_url": f"{sandbox.addresses.base_url}/v9"}))
        await _broken(bench, *(f"m{number}" for number in range(60)))
        await fetch(bench.runtime)
        rows = await bench.sql("SELECT state, sum(attempts), count(*) FROM reconnections GROUP BY state ORDER BY state")
        assert [tuple(row) for row in rows] == [("due", 0, 60 - MOST_GONE), ("gone", 0, MOST_GONE)]
        assert await bench.one("SELECT reason FROM pauses WHERE scope = 'mx'") == "not_mx"
        # As if another process, which has not believed any 404 yet, sent the probe: the breaker stays open.
        bench.runtime.mx._unproven_in_a_row = 0
        await bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
        await fetch(bench.runtime)
        assert await bench.one("SELECT count(*) FROM pauses") == 1
        assert await bench.one("SELECT count(*) FROM reconnections WHERE state = 'gone'") == MOST_GONE


async def test_the_few_members_of_a_small_tenant_that_are_gone_end_so(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({name: ["gone"] for name in "abc"}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        for name in "abc":
            await bench.member(name, connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert set((await bench.states()).values()) == {"gone"}
