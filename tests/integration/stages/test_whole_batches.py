"""A batch of rows that are all settled at once does not end a run while more is due."""

from datetime import timedelta
from typing import Any

from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep

_NAMES = "abcdz"


async def _earlier(bench: Any, table: str) -> None:
    """Let the rows of the users a to d be due before that of z."""
    earlier = bench.stored(bench.runtime.clock.now() - timedelta(minutes=1))
    await bench.sql(f"UPDATE {table} SET next_attempt_at = :at WHERE user_guid <> 'USR-z'", at=earlier)


async def test_fetch_goes_on_after_batches_of_users_who_have_no_address(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"z": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings, batch_size=2)
        for name in _NAMES:
            await bench.member(name, connection_status="DENIED", email="z@mail.example" if name == "z" else None)
        await sweep(bench.runtime)
        await _earlier(bench, "reconnections")
        await fetch(bench.runtime)
        outcomes = dict([tuple(row) for row in await bench.sql("SELECT user_guid, outcome FROM reconnections")])
        assert outcomes.pop("USR-z") != "no_address"
        assert set(outcomes.values()) == {"no_address"}
        assert (await bench.states())["MBR-z"] == "ready"


async def test_deliver_goes_on_after_batches_of_users_who_reached_their_cap(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({name: ["ok"] for name in _NAMES}) as sandbox:
        settings = sandbox.settings | {"smtp_url": "smtp://127.0.0.1:9?tls=none"}
        bench = await bench_for(**settings, batch_size=2, message_caps="1/24h")
        for name in _NAMES:
            await bench.member(name, connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await _earlier(bench, "notifications")
        now = bench.stored(bench.runtime.clock.now())
        for name in "abcd":
            await bench.sql(
                "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at) "
                "VALUES (:u, 'email', 0, 'sent', :u, :at, :at)", u=f"USR-{name}", at=now,
            )  # fmt: skip
        await deliver(bench.runtime)
        rows = await bench.sql("SELECT user_guid, outcome FROM notifications WHERE state = 'pending'")
        outcomes = dict([tuple(row) for row in rows])
        assert outcomes.pop("USR-z") not in {None, "message_cap"}  # it was tried; nobody listens at its mail server
        assert outcomes == dict.fromkeys((f"USR-{name}" for name in "abcd"), "message_cap")
