"""The ledger of requests, which tests and measurements read."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from worker.sandbox.ledger import peak, per_second


@pytest.mark.parametrize(
    ("times", "window", "most"),
    [
        ([], 1.0, 0),
        ([5.0], 1.0, 1),
        ([0.0, 1.0], 1.0, 1),
        ([0.0, 0.999], 1.0, 2),
        # Two in each whole second, but four within a second that begins at 0.9.
        ([0.9, 0.95, 1.0, 1.05], 1.0, 4),
        ([0.0, 0.4, 0.8, 1.2, 1.6], 1.0, 3),
        ([0.0, 0.4, 0.8, 1.2, 1.6], 0.5, 2),
    ],
)
def test_the_peak_is_that_of_the_busiest_sliding_window(times, window, most):
    assert peak(times, window) == most


def test_empty_seconds_are_counted_as_such():
    assert per_second([10.5, 10.6, 13.0]) == [2, 0, 1]
    assert per_second([]) == []


async def test_the_ledger_counts_by_status_and_by_member(start, member):
    sandbox = await start([member("MBR-1", "503", "ok"), member("MBR-2"), member("MBR-3")])
    began = datetime.now(UTC)
    await sandbox.window("MBR-1")
    await sandbox.window("MBR-1")
    state = await sandbox.mint("MBR-2")
    await sandbox.mint("MBR-2")
    await sandbox.decide(state)
    await sandbox.member("MBR-2")
    await sandbox.window("MBR-unknown")
    ledger = await sandbox.json("/sandbox/ledger")
    assert (ledger["requests"], ledger["window_requests"], ledger["reads"]) == (6, 5, 1)
    assert ledger["statuses"] == {"503": 1, "200": 4, "404": 1}
    assert ledger["steps"] == {"503": 1, "ok": 3}
    assert (ledger["windows_minted"], ledger["states_used"]) == (3, 1)
    assert set(ledger["members"]) == {"MBR-1", "MBR-2"}
    two = ledger["members"]["MBR-2"]
    assert (two["requests"], two["reads"], two["minted"], two["used"]) == (2, 1, 2, 1)
    minted_at = [datetime.fromisoformat(moment) for moment in two["minted_at"]]
    assert began - timedelta(seconds=1) < minted_at[0] <= minted_at[1] <= datetime.now(UTC)


async def test_the_ledger_holds_no_state_and_no_uri(sandbox):
    state = await sandbox.mint()
    async with sandbox.get("/sandbox/ledger", headers={}) as response:
        text = await response.text()
    assert state not in text
    assert "https://" not in text


async def test_totals_come_without_members_when_asked(sandbox):
    await sandbox.mint()
    totals = await sandbox.json("/sandbox/ledger?members=false")
    assert "members" not in totals
    assert totals["windows_minted"] == 1


async def test_refused_credentials_count_as_requests(sandbox):
    await sandbox.control(keys="revoke")
    await sandbox.window()
    ledger = await sandbox.json("/sandbox/ledger")
    assert ledger["statuses"] == {"401": 1}
    assert ledger["members"]["MBR-1"]["requests"] == 1


async def test_the_rate_is_asked_for_any_window(sandbox):
    began = time.monotonic()
    await asyncio.gather(*(sandbox.window() for _ in range(30)), *(sandbox.member() for _ in range(10)))
    took = time.monotonic() - began
    rate = await sandbox.json(f"/sandbox/rate?window={took + 1}")
    assert (rate["peak"], rate["total"], rate["of"]) == (40, 40, "all")
    assert (await sandbox.json("/sandbox/rate?window=600&of=window"))["peak"] == 30
    assert (await sandbox.json("/sandbox/rate?window=600&of=read"))["peak"] == 10
    assert 1 <= (await sandbox.json("/sandbox/rate"))["peak"] <= 40
    seconds = await sandbox.json("/sandbox/ledger/seconds")
    assert sum(seconds["seconds"]) == 40
    assert seconds["peak"] >= max(seconds["seconds"])


@pytest.mark.parametrize("query", ["window=0", "window=-1", "window=soon", "window=nan", "window=inf", "of=mail"])
async def test_a_rate_of_nonsense_is_refused(sandbox, query):
    async with sandbox.get(f"/sandbox/rate?{query}", headers={}) as response:
        assert response.status == 400


async def test_requests_in_flight_together_are_seen(start, member):
    sandbox = await start([member("MBR-1", "slow:0.3")])
    await asyncio.gather(*(sandbox.window() for _ in range(7)))
    ledger = await sandbox.json("/sandbox/ledger")
    assert (ledger["in_flight"], ledger["in_flight_peak"]) == (0, 7)
