"""No message names a bank that is paused or held for an outage, even if the message was planned before that."""

from datetime import timedelta
from typing import Any

import pytest

from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.pauses import PauseStore


async def _ready(bench: Any, *names: str) -> None:
    """Break these banks of one user and plan one message about all of them, which waits for delivery."""
    for name in names:
        await bench.member(
            name, user="p", institution_code=name, institution_name=f"{name.title()} Bank", connection_status="DENIED"
        )
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    assert set((await bench.states()).values()) == {"ready"}


async def _texts(sandbox: Any) -> list[str]:
    texts = []
    for mail in await sandbox.mails():
        async with sandbox.session.get(f"{sandbox.addresses.base_url}/sandbox/mail/{mail['number']}") as response:
            texts.append(await response.text())
    return texts


def _people(*names: str) -> dict[str, Any]:
    return {name: {"user_guid": "USR-p", "script": ["ok"]} for name in names}


@pytest.mark.parametrize("scope", ["institution:birch", "outage:birch"])
async def test_a_message_leaves_out_a_bank_that_is_held_since_it_was_planned(
    bench_for: Any, sandbox_for: Any, scope: str
) -> None:
    async with sandbox_for(_people("alder", "birch")) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _ready(bench, "alder", "birch")
        pauses = PauseStore(bench.runtime.database)
        await pauses.set(scope, "held", now=bench.runtime.clock.now(), probe_after=timedelta(hours=1))
        await deliver(bench.runtime)
        (text,) = await _texts(sandbox)
        assert "Alder Bank" in text
        assert "Birch Bank" not in text
        assert await bench.states() == {"MBR-alder": "notified", "MBR-birch": "due"}
        assert await bench.one("SELECT count(*) FROM windows WHERE uri IS NOT NULL") == 1
        await fetch(bench.runtime)
        assert (await bench.states())["MBR-birch"] == "due"
        await pauses.lift(scope)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        assert set((await bench.states()).values()) == {"notified"}
        assert sorted("Birch Bank" in text for text in await _texts(sandbox)) == [False, True]
        assert await bench.one("SELECT sum(attempts) FROM reconnections") == 0


async def test_a_held_bank_that_a_long_message_does_not_name_is_not_counted_as_told(
    bench_for: Any, sandbox_for: Any
) -> None:
    names = [f"bank{number:02}" for number in range(14)]
    async with sandbox_for(_people(*names)) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _ready(bench, *names)
        pauses, now = PauseStore(bench.runtime.database), bench.runtime.clock.now()
        for name in ("bank03", "bank13"):
            await pauses.set(f"institution:{name}", "held", now=now)
        await deliver(bench.runtime)
        states = await bench.states()
        assert {name for name, state in states.items() if state == "due"} == {"MBR-bank03", "MBR-bank13"}
        assert set(states.values()) == {"due", "notified"}


async def test_a_message_about_held_banks_alone_is_cancelled(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for(_people("birch")) as sandbox:
        bench = await bench_for(**sandbox.settings)
        await _ready(bench, "birch")
        await PauseStore(bench.runtime.database).set("institution:birch", "held", now=bench.runtime.clock.now())
        await deliver(bench.runtime)
        assert await sandbox.mails() == []
        assert await bench.states() == {"MBR-birch": "due"}
        assert await bench.one("SELECT state FROM notifications") == "cancelled"
