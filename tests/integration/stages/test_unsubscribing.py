"""Opting out by a link, of all messages or of one bank, on both databases. No message is sent until the user opts in again."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from worker.cli.data import import_into
from worker.cli.explain import explanation
from worker.cli.status import overview
from worker.policy.links import hash_of
from worker.stages.click import LeadsTo, click
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.link_page import BankState, page_of
from worker.stages.linking import fresh_link
from worker.stages.sweep import sweep
from worker.stages.unsubscribing import resubscribe, subscription, unsubscribe

BASE = "https://reconnect.example.com"


async def _round(bench: Any) -> None:
    for stage in (sweep, fetch, deliver):
        await stage(bench.runtime)


async def _broken(bench: Any, *names: str, user: str = "p") -> None:
    for name in names:
        await bench.member(name, user=user, connection_status="DENIED", institution_name=f"{name.title()} Bank")


async def _token(bench: Any, user: str = "p") -> str:
    link = await fresh_link(bench.runtime, f"USR-{user}")
    assert link is not None
    return link.page.rpartition("/")[2]


async def _texts(sandbox: Any) -> list[str]:
    texts = []
    for mail in await sandbox.mails():
        async with sandbox.session.get(f"{sandbox.addresses.base_url}/sandbox/mail/{mail['number']}") as response:
            texts.append(await response.text())
    return texts


def _people(*names: str) -> dict[str, Any]:
    return {name: {"user_guid": "USR-p", "script": ["ok"]} for name in names}


async def test_a_muted_bank_is_left_out_of_a_message_under_way_and_told_again_once_that_is_taken_back(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for(_people("alder", "birch")) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE)
        runtime = bench.runtime
        await _broken(bench, "alder", "birch")
        await sweep(runtime)
        await fetch(runtime)
        token = await _token(bench)
        assert await unsubscribe(runtime, token, member_guid="MBR-birch")
        assert await unsubscribe(runtime, token, member_guid="MBR-birch")
        await deliver(runtime)
        (text,) = await _texts(sandbox)
        assert "Alder Bank" in text
        assert "Birch Bank" not in text
        await _round(bench)
        assert await bench.states() == {"MBR-alder": "notified", "MBR-birch": "due"}
        found = await explanation(runtime, "MBR-birch")
        assert "asked for no messages about this bank" in " ".join(hold["says"] for hold in found["holds"])
        assert found["next"].startswith("nothing, while that holds")
        waiting = {row["why"]: row["count"] for row in (await overview(runtime))["waiting"]}
        assert waiting == {"muted": 1}
        assert await resubscribe(runtime, token, member_guid="MBR-birch")
        await _round(bench)
        assert set((await bench.states()).values()) == {"notified"}
        assert ["Birch Bank" in text for text in await _texts(sandbox)].count(True) == 1
        assert await bench.one("SELECT sum(attempts) FROM reconnections") == 0


async def test_a_message_about_muted_banks_alone_is_cancelled(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for(_people("birch")) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE)
        await _broken(bench, "birch")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        assert await unsubscribe(bench.runtime, await _token(bench), member_guid="MBR-birch")
        await deliver(bench.runtime)
        assert await sandbox.mails() == []
        rows = await bench.sql("SELECT state, outcome FROM notifications")
        assert [tuple(row) for row in rows] == [("cancelled", "muted")]


async def test_a_new_break_of_a_muted_bank_asks_mx_for_nothing_and_an_import_changes_that_in_no_way(
    bench_for: Any, sandbox_for: Any, tmp_path: Path
) -> None:
    async with sandbox_for(_people("birch")) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE)
        await bench.member("birch", user="p", connection_status="CONNECTED")
        await bench.sql("UPDATE members SET muted_at = :at", at=bench.moment(bench.runtime.clock.now()))
        before = await bench.one("SELECT muted_at FROM members")
        file = tmp_path / "members.csv"
        file.write_text("user_guid,member_guid,connection_status\nUSR-p,MBR-birch,DENIED\n", encoding="utf-8")
        assert await import_into(bench.runtime.database, file) == (1, 0)
        await _round(bench)
        assert await bench.states() == {"MBR-birch": "due"}
        assert await bench.one("SELECT count(*) FROM windows") == 0
        assert await bench.one("SELECT muted_at FROM members") == before


async def test_a_muted_bank_does_not_hurry_the_users_other_banks(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for(_people("alder", "birch")) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE)
        await _broken(bench, "alder")
        await _round(bench)
        soon = bench.stored(bench.runtime.clock.now() + timedelta(hours=20))
        await bench.sql("UPDATE reconnections SET next_attempt_at = :at", at=soon)
        await _broken(bench, "birch")
        await bench.sql(
            "UPDATE members SET muted_at = :at WHERE member_guid = 'MBR-birch'",
            at=bench.moment(bench.runtime.clock.now()),
        )
        await _round(bench)
        assert await bench.states() == {"MBR-alder": "notified", "MBR-birch": "due"}
        assert await bench.one("SELECT outcome FROM reconnections WHERE member_guid = 'MBR-birch'") == "muted"
        assert len(await sandbox.mails()) == 1


async def test_who_opts_out_of_everything_hears_nothing_until_that_is_taken_back(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for(_people("alder")) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE)
        await _broken(bench, "alder")
        await sweep(bench.runtime)
        token = await _token(bench)
        assert await unsubscribe(bench.runtime, token)
        date = await bench.one("SELECT opted_out_at FROM users")
        assert await unsubscribe(bench.runtime, token)
        assert await bench.one("SELECT opted_out_at FROM users") == date
        await _round(bench)
        assert await sandbox.mails() == []
        assert (await subscription(bench.runtime, token)).opted_out  # type: ignore[union-attr]
        # The link still leads to the bank.
        assert await unsubscribe(bench.runtime, token, member_guid="MBR-alder")
        page = await page_of(bench.runtime, token)
        assert page is not None
        assert [bank.state for bank in page.banks] == [BankState.BROKEN]
        assert isinstance(await click(bench.runtime, token, reconnection_id=None, nonce="n"), LeadsTo)
        assert await resubscribe(bench.runtime, token)
        assert await bench.one("SELECT opted_out_at FROM users") is None


async def test_a_link_knows_the_members_of_its_message_also_when_it_expired_and_all_is_over(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for(_people("alder", "birch", "cedar")) as sandbox:
        bench = await bench_for(**sandbox.settings, public_base_url=BASE)
        await _broken(bench, "alder", "birch")
        await bench.sql("UPDATE users SET locale = 'fr'")
        await _round(bench)
        await _broken(bench, "cedar")
        token = "a" * 22
        await bench.sql("UPDATE links SET token_hash = :h, expires_at = '2020-01-01 00:00:00'", h=hash_of(token))
        await bench.sql("UPDATE members SET connection_status = 'CONNECTED' WHERE member_guid <> 'MBR-cedar'")
        await sweep(bench.runtime)
        found = await subscription(bench.runtime, token)
        assert found is not None
        assert (found.locale, found.opted_out) == ("fr", False)
        assert [(m.member_guid, m.name, m.muted) for m in found.members] == [
            ("MBR-alder", "Alder Bank", False),
            ("MBR-birch", "Birch Bank", False),
        ]
        assert await unsubscribe(bench.runtime, token, member_guid="MBR-alder")
        assert not await unsubscribe(bench.runtime, token, member_guid="MBR-cedar")
        again = await subscription(bench.runtime, token)
        assert [m.muted for m in again.members] == [True, False]  # type: ignore[union-attr]
        # A link of `reconnect link` is about the open reconnections.
        other = await subscription(bench.runtime, await _token(bench))
        assert [m.member_guid for m in other.members] == ["MBR-cedar"]  # type: ignore[union-attr]


@pytest.mark.parametrize("token", ["", "b" * 22, "\ud800"])
async def test_an_unknown_token_changes_nothing(bench_for: Any, token: str) -> None:
    bench = await bench_for(public_base_url=BASE)
    await _broken(bench, "alder")
    assert await subscription(bench.runtime, token) is None
    assert not await unsubscribe(bench.runtime, token)
    assert not await unsubscribe(bench.runtime, token, member_guid="MBR-alder")
    assert not await resubscribe(bench.runtime, token)
    assert await bench.one("SELECT opted_out_at FROM users") is None
    assert await bench.one("SELECT muted_at FROM members") is None
