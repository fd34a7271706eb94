"""A user with many banks: a living worker keeps its leases, asks MX once for each bank, and one message names all."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep


async def _one_user(bench: Any, members: int) -> list[str]:
    names = [f"m{number:03}" for number in range(members)]
    await bench.members(*names, user="p", connection_status="DENIED")
    await bench.sql("UPDATE members SET institution_code = substr(member_guid, 5)")
    await sweep(bench.runtime)
    return names


def _script(members: int, step: str) -> dict[str, Any]:
    return {f"m{number:03}": {"user_guid": "USR-p", "script": [step]} for number in range(members)}


@pytest.mark.parametrize(
    ("step", "settings"),
    [
        # MX is slow: each of 7 connections makes 15 calls of 0.8 s one after the other, 12 s in all.
        pytest.param("slow:0.8", {"mx_max_connections": 7}, id="slow"),
        # A low rate: without Redis a process takes an eighth of it, 8 a second, so 105 calls take 13 s.
        pytest.param("ok", {"mx_requests_per_second": 64}, id="rate"),
    ],
)
async def test_a_user_with_more_banks_than_a_lease_has_time_for_is_told_of_all_of_them_once(
    bench_for: Any, sandbox_for: Any, step: str, settings: dict[str, Any]
) -> None:
    async with sandbox_for(_script(105, step)) as sandbox:
        bench = await bench_for(**sandbox.settings, lease_seconds=10, **settings)
        other = await bench_for(**sandbox.settings, lease_seconds=10, **settings)
        await _one_user(bench, 105)
        over = asyncio.Event()

        async def sweeps() -> None:
            while not await bench.one("SELECT count(*) FROM reconnections WHERE state = 'leased'"):  # noqa: ASYNC110 - a row tells
                await asyncio.sleep(0.01)
            pause = 6  # no lease of 10 s expires before
            while not over.is_set():
                await sweep(other.runtime)
                await fetch(other.runtime)
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), pause)
                pause = 1

        beside = asyncio.create_task(sweeps())
        report = await fetch(bench.runtime)
        over.set()
        await beside
        assert report.startswith("ready 105, ")
        assert (await sandbox.get("/sandbox/ledger"))["windows_minted"] == 105
        assert await bench.one("SELECT sum(lost_leases) FROM reconnections") == 0
        assert await bench.one("SELECT sum(attempts) FROM reconnections") == 0
        await deliver(bench.runtime)
        assert len(await sandbox.mails()) == 1
        assert set((await bench.states()).values()) == {"notified"}


async def test_a_fault_of_ours_over_one_bank_concerns_none_of_the_users_others(
    bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sandbox_for(_script(12, "ok")) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _one_user(bench, 12)
        ask = bench.runtime.mx.oauth_window

        async def stumble(user_guid: str, member_guid: str) -> Any:
            if member_guid == "MBR-m007":
                raise RuntimeError
            return await ask(user_guid, member_guid)

        monkeypatch.setattr(bench.runtime.mx, "oauth_window", stumble)
        await fetch(bench.runtime)
        states = await bench.states()
        assert states.pop("MBR-m007") == "due"
        assert set(states.values()) == {"ready"}
        rows = await bench.sql("SELECT outcome, attempts FROM reconnections WHERE member_guid = 'MBR-m007'")
        assert [tuple(row) for row in rows] == [("internal_error", 1)]


async def test_where_mx_refuses_us_the_users_other_banks_are_not_asked_for(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for(_script(40, "ok")) as sandbox:
        bench = await bench_for(**sandbox.settings, mx_api_key="wrong", mx_max_connections=4)
        await _one_user(bench, 40)
        await fetch(bench.runtime)
        assert (await sandbox.get("/sandbox/ledger"))["requests"] <= 8
        rows = await bench.sql("SELECT state, attempts, count(*) FROM reconnections GROUP BY state, attempts")
        assert [tuple(row) for row in rows] == [("due", 0, 40)]
