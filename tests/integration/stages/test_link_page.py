"""The page behind a link: which banks it shows and their states, on both databases."""

from datetime import timedelta
from typing import Any

import pytest

from tests.integration.stages.links import link, linked, message, reconnection
from tests.integration.stages.test_click import press
from worker.policy.links import new_token
from worker.stages.click import Back, Ended
from worker.stages.link_page import BankState, page_of

ENDS = {
    "reconnected": BankState.BACK,
    "unsupported": BankState.ENDED,
    "gone": BankState.ENDED,
    "exhausted": BankState.ENDED,
    "cancelled": BankState.ENDED,
    "quarantined": BankState.ENDED,
}


async def _shown(bench: Any, token: str) -> dict[str, BankState]:
    page = await page_of(bench.runtime, token)
    assert page is not None
    return {bank.name: bank.state for bank in page.banks}


async def test_it_shows_what_is_broken_now_and_since_when(bench_for: Any) -> None:
    bench = await bench_for()
    token, id_ = await linked(bench, "ann")
    await bench.sql("UPDATE users SET locale = 'fr-FR', timezone = 'Europe/Paris'")
    page = await page_of(bench.runtime, token)
    assert page is not None
    (bank,) = page.banks
    assert (page.user_guid, page.locale, str(page.time_zone)) == ("USR-ann", "fr-FR", "Europe/Paris")
    assert (bank.reconnection_id, bank.member_guid, bank.name, bank.state) == (id_, "MBR-ann", "Bank ann", "broken")
    assert abs(bank.since - (bench.runtime.clock.now() - timedelta(days=1))) < timedelta(minutes=1)


@pytest.mark.parametrize("state", ["due", "leased", "ready", "notified"])
async def test_whatever_is_open_is_broken(bench_for: Any, state: str) -> None:
    bench = await bench_for()
    token, _ = await linked(bench, state=state)
    assert await _shown(bench, token) == {"Bank ann": BankState.BROKEN}


@pytest.mark.parametrize("state", ENDS)
async def test_what_ended_says_how_unless_the_member_broke_again(bench_for: Any, state: str) -> None:
    bench = await bench_for()
    token, old = await linked(bench, state=state)
    assert await _shown(bench, token) == {"Bank ann": ENDS[state]}
    newer = await reconnection(bench, "ann", state="due")
    page = await page_of(bench.runtime, token)
    assert page is not None
    assert [(bank.reconnection_id, bank.state) for bank in page.banks] == [(newer, BankState.BROKEN)] != [(old, state)]


@pytest.mark.parametrize(
    ("before", "newest", "shown"),
    [
        # A notice was sent, the token expired, and the user came back by the notice's link.
        (("expires_soon", "cancelled"), ("expired", "reconnected"), BankState.BACK),
        (("connection_status", "cancelled"), ("connection_status", "reconnected"), BankState.BACK),
        # The member broke again, and that reconnection was given up.
        *((("connection_status", "reconnected"), ("connection_status", end), ENDS[end]) for end in ENDS),
        # The member works. Its expiry date moved, or notices were turned off.
        (("connection_status", "reconnected"), ("expires_soon", "cancelled"), BankState.BACK),
        (("connection_status", "exhausted"), ("expires_soon", "cancelled"), BankState.ENDED),
        (("expires_soon", "cancelled"), ("expires_soon", "cancelled"), BankState.ENDED),
        (("expires_soon", "cancelled"), ("expires_soon", "reconnected"), BankState.BACK),
    ],
)
async def test_of_what_ended_the_newest_is_shown_whichever_the_message_named(
    bench_for: Any, before: tuple[str, str], newest: tuple[str, str], shown: BankState
) -> None:
    bench = await bench_for()
    week_ago = timedelta(days=-9)
    token, named = await linked(bench, reason=before[0], state=before[1], since=week_ago)
    last = await reconnection(bench, "ann", reason=newest[0], state=newest[1])
    of_user = await link(bench, "ann", days=40)
    await bench.sql("UPDATE links SET created_at = :m", m=bench.stored(bench.runtime.clock.now() - timedelta(days=10)))
    for each in (token, of_user):
        assert await _shown(bench, each) == {"Bank ann": shown}
    answers = [await press(bench, token, pressed) for pressed in (None, named, last)]
    assert {type(answer) for answer in answers} == {Back if shown is BankState.BACK else Ended}


async def test_a_notice_works_until_its_date(bench_for: Any) -> None:
    bench = await bench_for()
    token, id_ = await linked(bench, reason="expires_soon", since=timedelta(days=5))
    assert await _shown(bench, token) == {"Bank ann": BankState.AHEAD}
    await bench.sql(
        "UPDATE reconnections SET broken_since = :s WHERE id = :i",
        s=bench.stored(bench.runtime.clock.now() - timedelta(minutes=1)), i=id_,
    )  # fmt: skip
    assert await _shown(bench, token) == {"Bank ann": BankState.BROKEN}


async def test_unknown_and_expired_tokens_show_nothing(bench_for: Any) -> None:
    bench = await bench_for()
    await linked(bench)
    for token in (new_token(bench.runtime.rng), "", "x" * 5000, "\ud800", await link(bench, "ann", days=-0.001)):
        assert await page_of(bench.runtime, token) is None


async def test_the_page_of_a_message_leaves_out_what_it_did_not_name_and_the_users_page_shows_all(
    bench_for: Any,
) -> None:
    bench = await bench_for()
    ids = [await reconnection(bench, name, user="ann") for name in ("a", "b", "c")]
    await reconnection(bench, "other")
    of_message = await link(bench, "ann", await message(bench, "ann", *ids[:2]))
    of_user = await link(bench, "ann")
    assert set(await _shown(bench, of_message)) == {"Bank a", "Bank b"}
    assert set(await _shown(bench, of_user)) == {"Bank a", "Bank b", "Bank c"}
    await bench.sql("UPDATE reconnections SET state = 'reconnected', closed_at = :n WHERE id = :i",
                    n=bench.stored(bench.runtime.clock.now() + timedelta(seconds=1)), i=ids[0])  # fmt: skip
    assert list((await _shown(bench, of_user)).items())[-1] == ("Bank a", BankState.BACK)


async def test_ten_banks_at_most_and_those_that_need_something_first(bench_for: Any) -> None:
    bench = await bench_for()
    ids = [
        await reconnection(bench, f"m{n}", user="ann", state="reconnected" if n < 8 else "notified") for n in range(14)
    ]
    token = await link(bench, "ann", await message(bench, "ann", *ids))
    states = list((await _shown(bench, token)).values())
    assert states == [BankState.BROKEN] * 6 + [BankState.BACK] * 4


async def test_looking_changes_no_row(bench_for: Any) -> None:
    bench = await bench_for()
    token, _ = await linked(bench, uri="https://bank.example/oauth?state=1")
    tables = ("links", "clicks", "windows", "reconnections", "notifications", "notification_reconnections")

    async def rows() -> list[Any]:
        return [await bench.sql(f"SELECT * FROM {table} ORDER BY 1") for table in tables]

    before = await rows()
    for _ in range(300):
        await page_of(bench.runtime, token)
    assert await rows() == before
