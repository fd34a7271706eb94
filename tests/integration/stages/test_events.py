"""The application gets every event at least once, and in order for each user, even if its endpoint fails for a while."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.receiver import KEY, OLD_KEY, Receiver, receiving
from worker.policy.events import EventType
from worker.stages.deliver import deliver
from worker.stages.events import STREAK, events
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.events.queue import EventStore
from worker.store.events.recording import record_about
from worker.store.pauses import EVENTS, PauseStore
from worker.store.sandbox_time import set_back
from worker.store.transactions.forget import ForgetStore

USERS = 12


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


def on(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"events_url": receiver.url, "events_secrets": f"{KEY},{OLD_KEY}"} | more


async def write(bench: Any, *users: str, each: int = 1) -> None:
    """Write ``each`` events for every one of these users, in turn: a, b, a, b."""
    for _ in range(each):

        async def work(connection: Any) -> None:
            record_about(connection, EventType.OPTED_OUT, [f"USR-{user}" for user in users])

        await bench.runtime.database.transaction(work)


async def rows(bench: Any) -> list[Any]:
    return list(await bench.sql("SELECT event_id, state, attempts, outcome FROM events ORDER BY id"))


async def scope(bench: Any) -> str | None:
    pause = await PauseStore(bench.runtime.database).get(EVENTS)
    return pause.reason if pause is not None else None


async def later(bench: Any, **by: float) -> None:
    """Set all stored moments back, as if this much time had passed."""
    await set_back(bench.runtime.database, timedelta(**by))


def in_order(receiver: Receiver) -> bool:
    return all(found == sorted(found) for found in receiver.sequences().values())


async def test_events_arrive_signed_under_both_keys_and_in_order(bench_for: Any, receiver: Receiver) -> None:
    bench = await bench_for(**on(receiver))
    await write(bench, *(str(number) for number in range(USERS)), each=5)
    await events(bench.runtime)
    assert len(receiver.kept) == len(receiver.requests) == 5 * USERS
    assert in_order(receiver)
    headers, event = receiver.requests[0]
    assert Webhook(OLD_KEY).verify(receiver.bodies[0], headers) == event
    assert {row.state for row in await rows(bench)} == {"accepted"}
    assert set(event) == {"type", "id", "sequence", "timestamp", "data"}


@pytest.mark.parametrize("fails", [500, 301, 400, "lose"])
async def test_a_failure_is_tried_again_and_holds_up_its_own_user_alone(
    bench_for: Any, receiver: Receiver, fails: Any
) -> None:
    bench = await bench_for(**on(receiver))
    receiver.behave = lambda event, nth: fails if event["data"]["user_guid"] == "USR-a" and nth == 1 else 204
    await write(bench, "a", "b", each=3)
    await events(bench.runtime)
    kept = {guid: len(found) for guid, found in receiver.sequences().items()}
    assert kept == {"USR-b": 3} | ({"USR-a": 1} if fails == "lose" else {})
    await later(bench, seconds=15)
    while len(receiver.requests) < 9:  # each of the first tries fails
        await events(bench.runtime)
        await later(bench, minutes=2)
    assert {guid: len(found) for guid, found in receiver.sequences().items()} == {"USR-a": 3, "USR-b": 3}
    assert in_order(receiver)
    assert await scope(bench) is None


async def test_a_dead_endpoint_costs_no_event_an_attempt_and_loses_none(bench_for: Any, receiver: Receiver) -> None:
    bench = await bench_for(**on(receiver))
    receiver.behave = lambda *_: 500
    await write(bench, *(str(number) for number in range(60)), each=2)
    await events(bench.runtime)
    assert STREAK <= len(receiver.requests) < 60  # it stopped before it had tried every user
    assert await scope(bench) == "the endpoint accepts no events: http_500"
    asked = len(receiver.requests)
    for _ in range(10):  # more than a day of probes: as many as an event has attempts
        await later(bench, hours=3)
        assert await events(bench.runtime) == "paused"
    assert len(receiver.requests) == asked + 10
    assert {(row.state, row.attempts) for row in await rows(bench)} == {("waiting", 0)}
    receiver.behave = lambda *_: 204
    await later(bench, minutes=2)
    while "accepted" in await events(bench.runtime):
        await later(bench, seconds=15)
    assert len(receiver.kept) == 120
    assert in_order(receiver)
    assert await scope(bench) is None


async def test_an_event_that_is_refused_while_others_are_accepted_is_given_up_after_days(
    bench_for: Any, receiver: Receiver
) -> None:
    bench = await bench_for(**on(receiver))
    receiver.behave = lambda event, _: 422 if event["data"]["user_guid"] == "USR-a" and event["sequence"] == 1 else 204
    await write(bench, "a", each=2)
    await write(bench, "b")
    tries = 0
    while (await rows(bench))[0].state == "waiting":
        await events(bench.runtime)
        tries += 1
        assert tries < 30
        await later(bench, hours=27)
        await write(bench, "b")
    assert (await rows(bench))[0][1:] == ("failed", 10, "http_422")
    await events(bench.runtime)
    assert receiver.sequences()["USR-a"] == [2]  # the next one was waiting for it
    receiver.behave = lambda *_: 204
    store, now = bench.runtime.database.store(EventStore), bench.runtime.clock.now()
    assert await store.replay(since=None, failed_only=True, now=now) == 1
    await events(bench.runtime)
    assert receiver.sequences()["USR-a"] == [2, 1]
    assert len({event["id"] for event in receiver.kept}) == len(receiver.kept)


@pytest.mark.parametrize(
    ("answer", "reason", "wait"),
    [
        (410, "the endpoint wants no more events (http_410)", 3600),
        ((429, {"Retry-After": "120"}), "the endpoint accepts no events: http_429", 120),
        ((503, {"Retry-After": "300"}), "the endpoint accepts no events: http_503", 300),
    ],
)
async def test_an_endpoint_that_asks_for_quiet_has_it(
    bench_for: Any, receiver: Receiver, answer: Any, reason: str, wait: int
) -> None:
    bench = await bench_for(**on(receiver))
    receiver.behave = lambda *_: answer
    await write(bench, "a")
    await events(bench.runtime)
    assert await scope(bench) == reason
    await later(bench, seconds=wait - 20)
    assert await events(bench.runtime) == "paused"
    assert len(receiver.requests) == 1
    receiver.behave = lambda *_: 204
    await later(bench, seconds=25)
    await write(bench, "b")
    await events(bench.runtime)
    await later(bench, seconds=wait)
    await events(bench.runtime)
    assert sorted(receiver.sequences()) == ["USR-a", "USR-b"]
    assert [row.attempts for row in await rows(bench)] == [0, 0]
    assert await scope(bench) is None


async def test_an_endpoint_that_hangs_or_is_away_is_a_failure_in_time(bench_for: Any, receiver: Receiver) -> None:
    bench = await bench_for(**on(receiver, lease_seconds=10))
    receiver.behave = lambda *_: "hang"
    await write(bench, "a")
    async with asyncio.timeout(10):
        await events(bench.runtime)
    assert (await rows(bench))[0][1:] == ("waiting", 0, "timeout")
    elsewhere = await bench_for(**on(receiver, events_url="http://127.0.0.1:9/in"))
    await later(bench, minutes=1)
    await events(elsewhere.runtime)
    assert await scope(bench) == "the endpoint cannot be reached: connect_failed"
    receiver.behave = lambda *_: 204
    await later(bench, seconds=12)
    await events(bench.runtime)
    assert len(receiver.kept) == 1


async def test_a_worker_that_dies_or_is_stopped_holds_nothing_up_for_longer_than_its_lease(
    bench_for: Any, receiver: Receiver
) -> None:
    bench = await bench_for(**on(receiver))
    store, now = bench.runtime.database.store(EventStore), bench.runtime.clock.now() + timedelta(seconds=1)
    await write(bench, "a", each=2)
    jobs = await store.lease(5, worker_id="dead:1", lease_seconds=60, now=now)
    assert [len(job) for job in jobs] == [2]
    await events(bench.runtime)
    assert receiver.requests == []
    await later(bench, seconds=61)
    await events(bench.runtime)
    assert len(receiver.kept) == 2
    bench.runtime.stopping.set()
    await write(bench, "b")
    await events(bench.runtime)
    assert await bench.one("SELECT count(*) FROM events WHERE lease_expires_at IS NOT NULL") == 0


async def test_replaying_since_a_moment_posts_accepted_ones_again_under_their_ids(
    bench_for: Any, receiver: Receiver
) -> None:
    bench = await bench_for(**on(receiver))
    await write(bench, "a")
    await events(bench.runtime)
    await later(bench, hours=2)
    await write(bench, "a", "b", each=2)
    await events(bench.runtime)
    before = [event for _, event in receiver.requests]
    store, now = bench.runtime.database.store(EventStore), bench.runtime.clock.now()
    assert await store.replay(since=now - timedelta(hours=1), failed_only=False, now=now) == 4
    await events(bench.runtime)
    again = [event for _, event in receiver.requests[len(before) :]]
    key = lambda event: event["sequence"]  # noqa: E731
    assert sorted(again, key=key) == sorted(before[1:], key=key)
    assert len(receiver.kept) == 5


async def test_a_commit_that_tells_wakes_the_stage(bench_for: Any, receiver: Receiver) -> None:
    bench = await bench_for(**on(receiver))
    await write(bench, "a")
    async with asyncio.timeout(5):
        while ("events", 1) not in bench.woken:  # noqa: ASYNC110 - a timer of the loop rings it
            await asyncio.sleep(0.05)


async def test_retention_deletes_what_was_accepted_and_nothing_that_waits(bench_for: Any, receiver: Receiver) -> None:
    bench = await bench_for(**on(receiver, retention_days=30))
    await write(bench, "a")
    await events(bench.runtime)
    await write(bench, "b")
    await later(bench, days=60)
    await write(bench, "c")
    await sweep(bench.runtime)
    assert [row[0] for row in await bench.sql("SELECT subject FROM events ORDER BY id")] == ["USR-b", "USR-c"]


async def test_a_forgotten_user_leaves_no_event(bench_for: Any, receiver: Receiver) -> None:
    bench = await bench_for(**on(receiver))
    await bench.member("a")
    await write(bench, "a", "b")
    await ForgetStore(bench.runtime.database).forget("USR-a")
    assert [row[0] for row in await bench.sql("SELECT subject FROM events ORDER BY id")] == ["USR-b"]


async def test_the_story_of_a_member_is_told_in_its_order_and_names_no_address_and_no_link(
    bench_for: Any, sandbox_for: Any, receiver: Receiver
) -> None:
    async with sandbox_for(
        {"a": ["ok"], "b": ["moved:MBR-new"], "c": ["unsupported"], "d": ["gone"], "e": ["hostile:userinfo"]}
    ) as sandbox:
        bench = await bench_for(**on(receiver, **sandbox.settings))
        for name in "abcde":
            await bench.member(name, connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await deliver(bench.runtime)
        await bench.sql("UPDATE members SET connection_status = 'CONNECTED' WHERE member_guid = 'MBR-a'")
        await bench.sql("DELETE FROM members WHERE member_guid = 'MBR-b'")
        await sweep(bench.runtime)
        await events(bench.runtime)
        assert len(await sandbox.mails()) == 2
    story: dict[str, list[str]] = {}
    for event in receiver.kept:
        story.setdefault(event["data"]["user_guid"], []).append(event["type"].partition(".")[2])
    assert story["USR-a"][:3] == ["opened", "sent", "notified"]
    assert story["USR-a"][3] in {"reconnected", "cancelled"}
    assert story["USR-b"] == ["opened", "moved", "sent", "notified", "gone"]
    assert (story["USR-c"], story["USR-d"], story["USR-e"]) == (
        ["opened", "unsupported"],
        ["opened", "gone"],
        ["opened", "quarantined"],
    )
    told = b"".join(receiver.bodies).decode()
    assert not [word for word in ("oauth/", "http:", "https:", "@", "state=") if word in told]


async def test_a_replay_keeps_the_order_of_what_waits(bench_for: Any, receiver: Any) -> None:
    bench = await bench_for(**on(receiver))
    await write(bench, "a")
    await events(bench.runtime)
    receiver.behave = lambda event, nth: 500 if event["sequence"] == 2 else 204
    await write(bench, "a")
    await events(bench.runtime)
    for passes in ({"seconds": 15}, {"minutes": 2}):
        await later(bench, **passes)
        await write(bench, "b")
        await events(bench.runtime)
    await write(bench, "a")  # waits behind event 2
    receiver.behave = lambda event, nth: 204
    before, now = len(receiver.requests), bench.runtime.clock.now()
    await EventStore(bench.runtime.database).replay(since=None, failed_only=False, now=now)
    await events(bench.runtime)
    await later(bench, hours=1)
    await events(bench.runtime)
    got = [e["sequence"] for _, e in receiver.requests[before:] if e["data"]["user_guid"] == "USR-a"]
    assert got == [1, 2, 5]
