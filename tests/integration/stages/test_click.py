"""A press of a link's button: the customer's answer and the rows that change, on both databases against the sandbox."""

import asyncio
from datetime import timedelta
from random import SystemRandom
from typing import Any

import pytest

from tests.integration.stages.links import link, linked, message, reconnection
from worker.errors import DatabaseUnavailable
from worker.policy.links import new_token
from worker.sandbox.script import STEPS
from worker.stages import click as stage
from worker.stages.click import Back, Choose, Ended, LeadsTo, NoLink, TooMany, TryAgain, click
from worker.store.transactions.click import ClickStore

MINUTE = timedelta(minutes=1)
OPEN = ["due", "leased", "ready", "notified"]


def nonce() -> str:
    return new_token(SystemRandom())


async def press(bench: Any, token: str, reconnection_id: int | None = None, form: str | None = None) -> Any:
    return await click(bench.runtime, token, reconnection_id=reconnection_id, nonce=form or nonce())


async def row(bench: Any, id_: int) -> dict[str, Any]:
    columns = "state, outcome, attempts, owed_at, clicked_at, next_check_at, moved_to, epoch"
    (found,) = await bench.sql(f"SELECT {columns} FROM reconnections WHERE id = :i", i=id_)
    return dict(found._mapping)


@pytest.mark.parametrize("state", OPEN)
async def test_a_press_leads_to_a_window_of_its_own_wherever_the_reconnection_stands(
    bench_for: Any, sandbox_for: Any, state: str
) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench, state=state)
        before = await row(bench, id_)
        answer = await press(bench, token)
        assert isinstance(answer, LeadsTo)
        assert answer.uri.startswith("http")
        assert answer.uri not in repr(answer)
        after = await row(bench, id_)
        assert (after["state"], after["attempts"], after["epoch"]) == (state, 0, before["epoch"])
        assert after["clicked_at"]
        (window,) = await bench.sql("SELECT epoch, uri FROM windows WHERE click_id IS NOT NULL")
        assert window.epoch is None
        assert bench.runtime.vault.decrypt(window.uri) == answer.uri
        assert await bench.one("SELECT outcome FROM clicks") == "window"
        assert await bench.one(
            "SELECT count(*) FROM links WHERE clicked_at IS NOT NULL AND last_clicked_at IS NOT NULL"
        )


#: By MX's answer: the customer's answer, the reconnection's new state ("" is unchanged), and whether its user is owed a message.
ANSWERS: dict[str, tuple[Any, str, bool]] = {
    "ok": (LeadsTo, "", False),
    "scan": (LeadsTo, "", False),
    "link_seconds:5": (LeadsTo, "", False),
    "slow:0.2": (LeadsTo, "", False),
    "moved:MBR-anew": (LeadsTo, "", False),
    "connected": (Back("Bank ann"), "reconnected", False),
    "unsupported": (Ended("unsupported"), "unsupported", False),
    "gone": (Ended("gone"), "gone", False),
    "rejected": (Ended("quarantined"), "quarantined", False),
    "hostile:javascript": (Ended("quarantined"), "quarantined", False),
    "401": (TryAgain(), "", True),
    "403": (TryAgain(), "", True),
    "406": (TryAgain(), "", True),
    "409": (TryAgain(), "", True),
    "429": (TryAgain(), "", True),
    "429:7": (TryAgain(timedelta(seconds=7)), "", True),
    "500": (TryAgain(), "", True),
    "502": (TryAgain(), "", True),
    "503": (TryAgain(), "", True),
    "503:90": (TryAgain(timedelta(seconds=90)), "", True),
    "504": (TryAgain(), "", True),
    "reset": (TryAgain(), "", True),
    "truncated": (TryAgain(), "", True),
    "html": (TryAgain(), "", True),
    "null_uri": (TryAgain(), "", True),
    "missing_uri": (TryAgain(), "", True),
    "empty_uri": (TryAgain(), "", True),
}


@pytest.mark.parametrize("step", ANSWERS)
async def test_each_answer_of_the_bank_has_its_effect_and_counts_as_no_attempt(
    bench_for: Any, sandbox_for: Any, step: str
) -> None:
    gets, becomes, is_owed = ANSWERS[step]
    state = OPEN[len(step) % 4]
    async with sandbox_for({"ann": [step]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench, state=state, attempts=7)
        answer = await press(bench, token)
        assert isinstance(answer, LeadsTo) if gets is LeadsTo else answer == gets
        after = await row(bench, id_)
        assert (after["state"], after["attempts"], after["owed_at"] is not None) == (becomes or state, 7, is_owed)
        assert after["moved_to"] == ("MBR-anew" if step.startswith("moved") else None)
        paused = await bench.one("SELECT count(*) FROM pauses WHERE scope = 'mx'")
        assert paused == (step in {"401", "403", "406"})
        if becomes:
            live = await bench.one("SELECT count(*) FROM windows WHERE superseded_at IS NULL")
            assert live == 0
            assert await press(bench, token) == gets  # the same answer, without a second request to MX
            assert await bench.one("SELECT count(*) FROM clicks WHERE minted") == 1
        assert step != "connected" or await bench.one("SELECT connection_status FROM members") == "CONNECTED"


async def test_a_click_that_mx_refuses_as_it_refuses_everybody_stops_all_work(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        await sandbox.control(keys="revoke")
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench)
        assert await press(bench, token) == TryAgain()
        assert (await row(bench, id_))["owed_at"] is not None
        assert await bench.one("SELECT reason FROM pauses WHERE scope = 'mx'") == "http_401"


def test_every_step_of_the_bank_is_among_them() -> None:
    assert {word.partition(":")[0] for word in ANSWERS} == {word.partition(":")[0] for word in STEPS}


@pytest.mark.parametrize("token", ["", "x", "\ud800", "A" * 22])
async def test_an_unknown_token_leads_nowhere_and_changes_nothing(bench_for: Any, token: str) -> None:
    bench = await bench_for()
    await linked(bench)
    assert await press(bench, token) == NoLink()
    assert await press(bench, await link(bench, "ann", days=-1)) == NoLink()
    assert await bench.one("SELECT count(*) FROM clicks") == 0


async def test_of_several_banks_one_must_be_named_and_only_those_of_the_link_can_be(
    bench_for: Any, sandbox_for: Any
) -> None:
    async with sandbox_for({name: ["ok"] for name in ("a", "b", "other")}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        a = await reconnection(bench, "a", user="ann", state="notified")
        b = await reconnection(bench, "b", user="ann")
        other = await reconnection(bench, "other")
        await bench.sql("UPDATE reconnections SET user_guid = 'USR-a' WHERE member_guid <> 'MBR-other'")
        for of in (await link(bench, "a", await message(bench, "a", a, b)), await link(bench, "a")):
            assert await press(bench, of) == Choose()
            assert await press(bench, of, other) == Choose()
            assert isinstance(await press(bench, of, a), LeadsTo)
        assert await bench.one("SELECT count(*) FROM clicks WHERE reconnection_id = :a", a=a) == 2
        await bench.sql("UPDATE reconnections SET state = 'exhausted', closed_at = opened_at WHERE id = :a", a=a)
        newer = await reconnection(bench, "a", user="ann", state="due")
        await bench.sql("UPDATE reconnections SET user_guid = 'USR-a' WHERE id = :n", n=newer)
        assert isinstance(await press(bench, of, a), LeadsTo)
        assert await bench.one("SELECT count(*) FROM clicks WHERE reconnection_id = :n", n=newer) == 1


async def test_a_stored_window_is_handed_out_once_and_only_if_its_uri_stood_in_no_message(bench_for: Any) -> None:
    bench = await bench_for()
    uri = "https://bank.example/oauth?state=0123456789abcdef"
    token, _ = await linked(bench, uri=uri)
    assert await press(bench, token) == LeadsTo(uri)
    assert await bench.one("SELECT minted FROM clicks") == 0
    assert await press(bench, token) == TryAgain()  # there is no MX to mint another one
    # A message from before PUBLIC_BASE_URL was set contained the URI itself.
    other = await reconnection(bench, "bob")
    await message(bench, "bob", other, uri=uri)
    assert await press(bench, await link(bench, "bob")) == TryAgain()
    # A URI of 16 minutes is too old, unless URI_MAX_AGE allows any age.
    await bench.sql(
        "UPDATE windows SET click_id = NULL, fetched_at = :f", f=bench.stored(bench.runtime.clock.now() - 16 * MINUTE)
    )
    assert await press(bench, token) == TryAgain()
    ageless = await bench_for(uri_max_age="0")
    assert await press(ageless, token) == LeadsTo(uri)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_double_click_leads_to_one_uri_also_through_two_processes(
    bench_for: Any, sandbox_for: Any, stored: bool
) -> None:
    async with sandbox_for({"ann": ["slow:0.3"]}) as sandbox:
        first, second = await bench_for(**sandbox.settings), await bench_for(**sandbox.settings)
        token, _ = await linked(first, uri="https://bank.example/oauth?state=1" if stored else None)
        form = nonce()
        answers = await asyncio.gather(*(press(each, token, form=form) for each in (first, second, first)))
        assert len({answer.uri for answer in answers}) == 1
        assert await press(second, token, form=form) == answers[0]
        assert (await sandbox.get("/sandbox/ledger"))["windows_minted"] == (not stored)
        # Another load of the page gets another URI, and so does the same load a minute later.
        assert (await press(second, token)).uri != answers[0].uri
        await first.sql("UPDATE clicks SET clicked_at = :c", c=first.stored(first.runtime.clock.now() - MINUTE))
        assert (await press(first, token, form=form)).uri != answers[0].uri


async def test_what_is_no_nonce_is_a_page_load_of_its_own(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, _ = await linked(bench)
        answers = [
            await press(bench, token, form=form) for form in ("", " ", "short", "ä" * 22, "x" * 65, "\ud800" * 20) * 2
        ]
        assert len({answer.uri for answer in answers}) == 12


async def test_a_press_after_a_failed_one_from_the_same_page_asks_again(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"ann": ["500", "ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench)
        form = nonce()
        assert await press(bench, token, form=form) == TryAgain()
        assert (await row(bench, id_))["owed_at"]
        assert isinstance(await press(bench, token, form=form), LeadsTo)
        assert (await row(bench, id_))["owed_at"] is None


async def test_no_uri_is_handed_to_two_of_fifty_clicks(bench_for: Any, sandbox_for: Any) -> None:
    names = ["a", "b", "c", "d", "e"]
    async with sandbox_for({name: ["slow:0.05"] for name in names}) as sandbox:
        benches = [await bench_for(**sandbox.settings) for _ in range(2)]
        tokens = [(await linked(benches[0], name, uri=f"https://bank.example/?state={name}"))[0] for name in names]
        forms = [nonce() for _ in range(25)]
        presses = [(n % 5, forms[n // 2]) for n in range(50)]  # each nonce is pressed on two links
        answers = await asyncio.gather(
            *(press(benches[n % 2], tokens[of], form=form) for n, (of, form) in enumerate(presses))
        )
        by_uri: dict[str, set[Any]] = {}
        for answer, key in zip(answers, presses, strict=True):
            assert isinstance(answer, LeadsTo)
            by_uri.setdefault(answer.uri, set()).add(key)
        assert all(len(keys) == 1 for keys in by_uri.values())
        assert len(by_uri) == len(set(presses))


async def test_the_21st_mint_of_an_hour_waits_also_if_two_come_at_once(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench, other = await bench_for(**sandbox.settings), await bench_for(**sandbox.settings)
        token, _ = await linked(bench)
        for _ in range(18):
            assert isinstance(await press(bench, token), LeadsTo)
        last = await asyncio.gather(*(press(each, token) for each in (bench, other, bench, other)))
        assert sorted(type(answer).__name__ for answer in last) == ["LeadsTo", "LeadsTo", "TooMany", "TooMany"]
        (until,) = {answer.until for answer in last if isinstance(answer, TooMany)}
        assert abs(until - bench.runtime.clock.now() - 60 * MINUTE) < MINUTE
        await bench.sql("UPDATE clicks SET clicked_at = :c WHERE id = (SELECT min(id) FROM clicks)",
                        c=bench.stored(bench.runtime.clock.now() - 61 * MINUTE))  # fmt: skip
        assert isinstance(await press(bench, token), LeadsTo)


@pytest.mark.parametrize("scope", ["everything", "institution:alder"])
async def test_what_an_operator_paused_is_tried_later(bench_for: Any, sandbox_for: Any, scope: str) -> None:
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench, uri="https://bank.example/?state=1")
        await bench.sql("INSERT INTO pauses (scope, reason, since) VALUES (:s, 'x', :n)",
                        s=scope, n=bench.stored(bench.runtime.clock.now()))  # fmt: skip
        assert await press(bench, token) == TryAgain()
        assert (await row(bench, id_))["owed_at"]
        await bench.sql("UPDATE pauses SET scope = 'mx'")  # a pause by the breaker does not stop a click
        assert isinstance(await press(bench, token), LeadsTo)


@pytest.mark.parametrize("where", ["begin", "mint", "minted", "served", "after"])
async def test_wherever_a_click_dies_the_next_press_is_served(
    bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(stage, "GIVEN_UP_AFTER", 0.5)
    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        token, _ = await linked(bench)
        form = nonce()
        target: Any = bench.runtime.mx if where.startswith("mint") else ClickStore
        name = {"mint": "urgent_window", "minted": "urgent_window", "after": "served"}.get(where, where)
        genuine = getattr(target, name)

        async def dies(*args: Any, **more: Any) -> Any:
            if where in {"minted", "after"}:
                await genuine(*args, **more)
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(target, name, dies)
            with pytest.raises(ZeroDivisionError):
                await press(bench, token, form=form)
        answers = await asyncio.gather(press(bench, token, form=form), press(bench, token))
        assert all(isinstance(answer, LeadsTo) for answer in answers)
        assert len({answer.uri for answer in answers}) == 2
        assert await press(bench, token, form=form) == answers[0]


@pytest.mark.parametrize("state", ["leased", "ready"])
async def test_a_click_that_finds_the_member_back_ends_a_fetch_and_a_message_under_way(
    bench_for: Any, sandbox_for: Any, state: str
) -> None:
    async with sandbox_for({"ann": ["connected"]}) as sandbox:
        bench = await bench_for(**sandbox.settings)
        id_ = await reconnection(bench, "ann", state=state, lease_worker="w" if state == "leased" else None)
        pending = await message(bench, "ann", id_, state="pending", uri="https://bank.example/?state=1")
        assert await press(bench, await link(bench, "ann")) == Back("Bank ann")
        assert await bench.one("SELECT state FROM notifications WHERE id = :i", i=pending) == "cancelled"
        assert await bench.one("SELECT count(*) FROM windows WHERE uri IS NOT NULL") == 0
        (found,) = await bench.sql("SELECT state, lease_worker FROM reconnections")
        assert tuple(found) == ("reconnected", None)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_the_user_is_owed_is_written_before_the_breaker(
    bench_for: Any, sandbox_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("away")

    async with sandbox_for({"ann": ["ok"]}) as sandbox:
        await sandbox.control(keys="revoke")
        bench = await bench_for(**sandbox.settings)
        token, id_ = await linked(bench)
        monkeypatch.setattr(stage.Breaker, "settle", away)
        with pytest.raises(DatabaseUnavailable):
            await press(bench, token)
        assert (await row(bench, id_))["owed_at"]
        assert await bench.one("SELECT outcome FROM clicks") == "http_401"
