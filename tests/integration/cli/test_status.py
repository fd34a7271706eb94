"""`status` shows what reconnections and notifications wait for: each reason with its count and its first moment."""

from datetime import timedelta
from io import StringIO
from typing import Any

from worker.cli.funnel import MEANINGS, funnel_table, waiting_table
from worker.cli.session import PlainConsole
from worker.cli.status import overview
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.pauses import PauseStore


def _waits(found: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(row["what"], row["why"]): row["count"] for row in found["waiting"]}


async def test_what_waits_is_counted_by_what_it_waits_for(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({name: ["ok"] for name in "abcdefgh"}) as sandbox:
        bench = await bench_for(**sandbox.settings, notify_after="15m", message_caps="1/24h")
        now = bench.runtime.clock.now()
        for name in "abcdefgh":
            await bench.member(name, connection_status="DENIED")
        await sweep(bench.runtime)
        found = await overview(bench.runtime)
        assert _waits(found) == {("reconnections", "grace"): 8}
        assert found["waiting"][0]["first_at"] > now + timedelta(minutes=14)

        early = "UPDATE reconnections SET next_attempt_at = :at WHERE user_guid <> 'USR-h'"
        await bench.sql(early, at=bench.stored(now - timedelta(minutes=1)))
        await bench.sql("UPDATE users SET opted_out_at = :at WHERE user_guid = 'USR-a'", at=bench.stored(now))
        await bench.sql("UPDATE users SET email = NULL WHERE user_guid IN ('USR-b', 'USR-c')")
        for name in "de":
            await bench.sql(
                "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at) "
                "VALUES (:u, 'email', 0, 'sent', :u, :at, :at)", u=f"USR-{name}", at=bench.stored(now),
            )  # fmt: skip
        assert _waits(await overview(bench.runtime)) == {("reconnections", "now"): 7, ("reconnections", "grace"): 1}
        await fetch(bench.runtime)
        held = {
            ("reconnections", "grace"): 1,
            ("reconnections", "opted_out"): 1,
            ("reconnections", "no_address"): 2,
            ("reconnections", "message_cap"): 2,
        }
        assert _waits(await overview(bench.runtime)) == held | {("notifications", "now"): 2}

        # Two notifications are pending. One user gets another message meanwhile, which reaches the cap; for the other, the server is down.
        await bench.sql(
            "INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at) "
            "VALUES ('USR-f', 'email', 0, 'sent', 'k', :at, :at)", at=bench.stored(now),
        )  # fmt: skip
        away = await bench_for(**(sandbox.settings | {"smtp_url": "smtp://127.0.0.1:9?tls=none"}), message_caps="1/24h")
        await deliver(away.runtime)
        found = await overview(bench.runtime)
        waits = _waits(found)
        assert waits["notifications", "message_cap"] == 1
        refused = {why for what, why in waits if what == "notifications"} - {"message_cap"}
        assert len(refused) == 1
        assert "connect" in refused.pop()
        assert {row["state"] for row in found["notification_outcomes"]} == {"pending"}

        # Due rows that are paused wait for the pause; the other rows still wait for their own moment.
        pauses = PauseStore(bench.runtime.database)
        due = "UPDATE {} SET next_attempt_at = :at WHERE user_guid IN ('USR-g', 'USR-h')"
        for table in ("reconnections", "notifications"):
            await bench.sql(due.format(table), at=bench.stored(now))
        for scope in ("delivery:email", "institution:alder", "institution:birch"):
            await pauses.set(scope, "why", now=now)
        found = await overview(bench.runtime)
        waits = _waits(found)
        assert (waits["notifications", "paused"], waits["notifications", "message_cap"]) == (1, 1)
        assert (waits["reconnections", "paused"], waits["reconnections", "message_cap"]) == (1, 2)
        await pauses.lift("institution:alder")
        assert _waits(await overview(bench.runtime))["reconnections", "now"] == 1

        text = StringIO()
        console = PlainConsole()
        console.file, console.width = text, 200  # type: ignore[assignment]
        console.print(funnel_table(found), waiting_table(found["waiting"], now))
        shown = text.getvalue()
        assert "message_cap 2" in shown
        assert MEANINGS["paused"] in shown
        assert len(shown.splitlines()) < 50


async def test_sweeps_that_are_overdue_are_said_first(bench_for: Any) -> None:
    bench = await bench_for()
    await sweep(bench.runtime)
    asked_at = bench.runtime.clock.now()
    found = await overview(bench.runtime)
    assert found["overdue"] is None
    assert asked_at < found["next_sweep_at"] <= bench.runtime.clock.now() + timedelta(minutes=5)
    await bench.sql(
        "UPDATE sweeps SET started_at = :at", at=bench.stored(bench.runtime.clock.now() - timedelta(minutes=11))
    )
    assert "see that beat or cron runs" in (await overview(bench.runtime))["overdue"]
