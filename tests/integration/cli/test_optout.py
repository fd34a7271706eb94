"""A user who opted out gets no messages until the opt-out is undone."""

from typing import Any

from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.addresses import AddressStore


async def test_a_message_that_waits_is_not_delivered_to_who_opted_out(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"a": ["ok"], "b": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        for name in ("a", "b"):
            await bench.member(name, connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        store = AddressStore(bench.runtime.database)
        assert await store.opt_out(["USR-a", "USR-nobody"], now=bench.runtime.clock.now()) == {"USR-a"}
        await deliver(bench.runtime)
        assert len(await sandbox.mails()) == 1
        assert await bench.one("SELECT outcome FROM notifications WHERE user_guid = 'USR-a'") == "opted_out"
        assert await bench.one("SELECT state FROM notifications WHERE user_guid = 'USR-b'") == "sent"


async def test_opting_out_again_keeps_the_date_and_undoing_forgets_it(bench_for: Any) -> None:
    bench = await bench_for()
    await bench.member("a")
    store, now = AddressStore(bench.runtime.database), bench.runtime.clock.now()
    await store.opt_out(["USR-a"], now=now)
    first = await bench.one("SELECT opted_out_at FROM users")
    assert first is not None
    await store.opt_out(["USR-a"], now=bench.runtime.clock.now())
    assert await bench.one("SELECT opted_out_at FROM users") == first
    assert await store.opt_in(["USR-a"]) == {"USR-a"}
    assert await bench.one("SELECT opted_out_at FROM users") is None


def test_the_command_names_whom_it_does_not_know(machine: Any) -> None:
    (machine.folder / "m.csv").write_text("user_guid,member_guid,email\nUSR-1,MBR-1,one@mail.example\n")
    assert machine("import", "m.csv").code == 0
    ran = machine("optout", "USR-1")
    assert (ran.code, ran.out) == (0, "USR-1 gets no more messages.\n")
    undone = {"opted_in": ["USR-1"], "unknown": [], "unknown_addresses": 0}
    assert machine.json("optout", "USR-1", "--undo") == undone
    missing = machine("optout", "USR-1", "USR-2")
    assert missing.code == 1
    assert missing.err.strip() == "reconnect: not in the database: USR-2"
    wrong = machine("optout", "one at mail.example")
    assert wrong.code == 2
    assert len(wrong.err.strip().splitlines()) == 1
