"""Faults that the state machine found, as single tests: a worker that was stopped for a while, and a reconnection that is requeued."""

import asyncio
from typing import Any

from worker.policy.states import ReconnectionState
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.transactions.retry import RetryStore

#: One customer with two banks.
_BOTH = {name: {"user_guid": "USR-both", "script": ["ok"]} for name in ("a", "b")}
_PAST = "2000-01-01 00:00:00"


async def test_a_message_whose_worker_stood_still_past_its_lease_is_sent_later(
    bench_for: Any, sandbox_for: Any
) -> None:
    """The lease expired before the dispatch was committed. No sweep had recovered it, so the message is still this worker's."""
    async with sandbox_for({"a": ["ok"]}, mail_latency=0.3) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        delivery = asyncio.create_task(deliver(bench.runtime))
        async with asyncio.timeout(60):
            while await bench.one("SELECT state FROM notifications") != "sending":  # noqa: ASYNC110 - a database has no events
                await asyncio.sleep(0.01)
        await bench.sql("UPDATE notifications SET lease_expires_at = :past", past=_PAST)
        await delivery
        after = "SELECT state FROM notifications WHERE state = 'sent' OR next_attempt_at IS NOT NULL"
        assert await bench.one(after) in {"pending", "sent"}
        await sweep(bench.runtime)
        await deliver(bench.runtime)
        assert await bench.one("SELECT state FROM notifications") == "sent"
        assert len(await sandbox.mails()) == 1


async def test_who_was_set_aside_right_before_their_message_is_told_once_they_are_put_back(
    bench_for: Any, sandbox_for: Any
) -> None:
    """The first message of the step ended without being sent. After `reconnect retry` a new message is planned for the same step."""
    async with sandbox_for(_BOTH) as sandbox:
        bench = await bench_for(**sandbox.settings, uri_max_age="1s")
        for name in ("a", "b"):
            await bench.member(name, user="both", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await bench.sql("UPDATE windows SET fetched_at = :past", past=_PAST)
        await sandbox.control(fault="rejected")
        await deliver(bench.runtime)
        assert set((await bench.states()).values()) == {"quarantined"}
        await sandbox.control(fault=None)
        now = await bench.runtime.set_clock()
        await RetryStore(bench.runtime.database).reconnections([ReconnectionState.QUARANTINED], None, now=now)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        assert set((await bench.states()).values()) == {"notified"}
        assert len(await sandbox.mails()) == 1
