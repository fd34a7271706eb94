"""A fault of MX with one member leaves that member out of the message; a fault with all members defers the message."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from worker.channels import Dispatching, Message, Outcome, Sent
from worker.mx import answers as mx
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep

_URI = "https://bank.example/oauth/authorize?state=0123456789abcdef"


class Mx:
    """MX without a network: an answer for each member in ``answers``; for others a window, and the member is still broken."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked = 0

    async def oauth_window(self, _user_guid: str, member_guid: str) -> Any:
        self.asked += 1
        return self.answers.get(member_guid) or mx.Window(uri=_URI, member=mx.MemberState(guid=member_guid))

    async def read_member(self, _user_guid: str, member_guid: str) -> Any:
        return self.answers.get(member_guid) or mx.MemberRead(member=mx.MemberState(guid=member_guid))

    async def probe(self) -> None:
        return None

    async def close(self) -> None:
        pass


class Channel:
    """A mail channel that sends every message; it notes the banks that each names and their count."""

    kind = "email"

    def __init__(self) -> None:
        self.named: list[list[str]] = []
        self.counted: list[int] = []

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        await dispatching()
        self.named.append([bank.name for bank in message.banks])
        self.counted.append(message.count)
        return Sent()

    async def close(self) -> None:
        pass


@pytest.fixture
async def bank_for(bench_for: Any) -> Callable[..., Any]:
    """Messages that have waited for 20 minutes, so that deliver asks MX again: ``await bank_for({"p": ["a", "b"]})``."""

    async def make(members: dict[str, list[str]], *, minutes: int = 20, **settings: Any) -> Any:
        bench = await bench_for(**settings)
        await bench.runtime.mx.close()
        bench.mx = bench.runtime.mx = Mx()
        bench.channel = Channel()
        bench.runtime.channels = {"email": bench.channel}
        for user, names in members.items():
            await bench.members(*names, user=user, connection_status="DENIED")
        await bench.sql("UPDATE members SET institution_name = upper(substr(member_guid, 5))")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        await wait(bench, minutes=minutes)
        return bench

    return make


async def wait(bench: Any, **span: float) -> None:
    """Move the worker's clock; the stages do not set it from the database's clock any more."""
    now = bench.runtime.clock.now() + timedelta(**span)

    async def set_clock() -> Any:
        return bench.runtime.clock.now()

    bench.runtime.clock.set(now)
    bench.runtime.set_clock = set_clock


async def _row(bench: Any, member: str) -> tuple[Any, ...]:
    rows = await bench.sql(
        "SELECT state, outcome, attempts FROM reconnections WHERE member_guid = :m ORDER BY id", m=f"MBR-{member}"
    )
    return tuple(rows[-1])


_OF_ONE_MEMBER = [
    (mx.RetryLater(code="no_uri", upstream=False), "due", 1),
    (mx.RetryLater(code="http_409", after=5.0, upstream=False), "due", 1),
    (mx.RetryLater(code="http_500"), "due", 1),
    (mx.RetryLater(code="http_503", after=60.0), "due", 1),
    (mx.RetryLater(code="timeout"), "due", 1),
    (mx.RetryLater(code="not_json"), "due", 1),
    (mx.Unsupported(), "unsupported", 0),
    (mx.Gone(), "gone", 0),
    (mx.RejectedRequest(code="http_422"), "quarantined", 0),
    (mx.HostileUri(code="uri_user_info"), "quarantined", 0),
]


@pytest.mark.parametrize(
    ("minutes", "ends"),
    [
        *((20, ends) for ends in _OF_ONE_MEMBER),  # the window is 20 minutes old, so a new one is minted
        *(
            (2, ends) for ends in _OF_ONE_MEMBER if ends[0].code in {"http_409", "http_500", "gone", "http_422"}
        ),  # the window is young, so the member is only read
    ],
    ids=lambda value: value[0].code if isinstance(value, tuple) else None,
)
async def test_a_member_that_mx_cannot_serve_is_left_out_and_the_others_are_told(
    bank_for: Any, minutes: int, ends: tuple[Any, str, int]
) -> None:
    answer, state, attempts = ends
    bench = await bank_for({"p": ["a", "b", "c"]}, minutes=minutes)
    bench.mx.answers["MBR-b"] = answer
    await deliver(bench.runtime)
    assert [sorted(names) for names in bench.channel.named] == [["A", "C"]]
    assert await _row(bench, "b") == (state, answer.code, attempts)
    assert {(await _row(bench, name))[0] for name in "ac"} == {"notified"}
    assert await bench.one("SELECT state FROM notifications") == "sent"
    # The message has two items: the two banks that it named.
    assert await bench.one("SELECT count(*) FROM notification_reconnections") == 2
    live = "SELECT count(*) FROM windows WHERE superseded_at IS NULL AND member_guid = 'MBR-b'"
    assert await bench.one(live) == 0


@pytest.mark.parametrize(
    ("stored", "state"), [("a window of another key", "due"), ("a host that is not allowed any more", "quarantined")]
)
async def test_a_stored_uri_that_may_not_leave_takes_out_its_own_reconnection_alone(
    bank_for: Any, stored: str, state: str
) -> None:
    bench = await bank_for({"p": ["a", "b"]}, minutes=0)
    uri = "gAAAA" if "key" in stored else bench.runtime.vault.encrypt("http://bank.example/insecure")
    await bench.sql("UPDATE windows SET uri = :uri WHERE member_guid = 'MBR-a'", uri=uri)
    await deliver(bench.runtime)
    assert bench.channel.named == [["B"]]
    assert (await _row(bench, "a"))[0] == state


async def test_who_was_left_out_is_told_in_a_message_of_its_own(bank_for: Any) -> None:
    bench = await bank_for({"p": ["a", "b"]})
    bench.mx.answers["MBR-a"] = mx.RetryLater(code="http_409", upstream=False)
    await deliver(bench.runtime)
    bench.mx.answers.clear()
    await wait(bench, hours=1)
    await fetch(bench.runtime)
    await deliver(bench.runtime)
    assert bench.channel.named == [["B"], ["A"]]
    rows = await bench.sql("SELECT state, step, base_step, attempts FROM reconnections ORDER BY member_guid")
    assert [tuple(row) for row in rows] == [("notified", 2, 1, 0), ("notified", 1, 0, 0)]


async def test_a_message_of_which_nobody_is_left_is_cancelled_and_blocks_nobody(bank_for: Any) -> None:
    bench = await bank_for({"p": ["a"]})
    bench.mx.answers["MBR-a"] = mx.RetryLater(code="no_uri", upstream=False)
    await deliver(bench.runtime)
    rows = await bench.sql("SELECT state, outcome FROM notifications")
    assert [tuple(row) for row in rows] == [("cancelled", "no_uri")]
    await bench.member("b", user="p", connection_status="DENIED", institution_name="B")
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    await deliver(bench.runtime)
    assert bench.channel.named == [["B"]]


async def test_a_member_that_only_ever_fails_before_its_message_comes_to_an_end(bank_for: Any) -> None:
    bench = await bank_for({"p": ["a"]}, max_attempts=3)
    for _ in range(5):
        bench.mx.answers["MBR-a"] = mx.RetryLater(code="no_uri", upstream=False)
        await deliver(bench.runtime)
        bench.mx.answers.clear()
        await wait(bench, days=1.1)
        await fetch(bench.runtime)
        await wait(bench, minutes=20)
    assert await _row(bench, "a") == ("exhausted", "no_uri", 3)
    assert bench.channel.named == []


@pytest.mark.parametrize(
    ("answer", "paused"),
    [
        (mx.RefusedClient(code="http_401"), ["mx"]),
        (mx.RetryLater(code="http_429", after=1.0), []),
        (mx.RetryLater(code="not_asked"), []),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_a_fault_of_mx_as_a_whole_postpones_the_message_and_costs_nothing(
    bank_for: Any, answer: Any, paused: list[str]
) -> None:
    bench = await bank_for({"p": ["a", "b"]})
    bench.mx.answers["MBR-b"] = answer
    await deliver(bench.runtime)
    assert bench.channel.named == []
    rows = await bench.sql("SELECT state, attempts, outcome FROM notifications")
    assert [tuple(row) for row in rows] == [("pending", 0, answer.code)]
    assert [(await _row(bench, name))[::2] for name in "ab"] == [("ready", 0)] * 2
    assert [row[0] for row in await bench.sql("SELECT scope FROM pauses")] == paused


@pytest.mark.parametrize("attempts", [0, 7], ids=["a first failure", "the last one that is allowed"])
async def test_failures_that_make_a_streak_open_the_breaker_and_are_given_back(bank_for: Any, attempts: int) -> None:
    names = [f"m{number}" for number in range(40)]
    bench = await bank_for({name: [name] for name in names}, max_attempts=8)
    await bench.sql("UPDATE reconnections SET attempts = :n", n=attempts)
    bench.mx.answers = {f"MBR-{name}": mx.RetryLater(code="http_503") for name in names}
    await deliver(bench.runtime)
    assert await bench.one("SELECT scope FROM pauses") == "mx"
    rows = await bench.sql("SELECT DISTINCT attempts, closed_at IS NULL FROM reconnections")
    assert [(row[0], bool(row[1])) for row in rows] == [(attempts, True)]
    await bench.sql("DELETE FROM pauses")
    bench.mx.answers.clear()
    await wait(bench, minutes=10)
    await fetch(bench.runtime)
    await deliver(bench.runtime)
    assert len(bench.channel.named) == 40


async def test_a_message_about_many_names_ten_that_mx_vouches_for_and_counts_all_as_told(bank_for: Any) -> None:
    names = [f"m{number:02}" for number in range(25)]
    bench = await bank_for({"p": names})
    bench.mx.asked = 0
    first = await bench.sql("SELECT member_guid FROM reconnections ORDER BY broken_since, id LIMIT 1")
    bench.mx.answers[first[0][0]] = mx.RetryLater(code="no_uri", upstream=False)
    await deliver(bench.runtime)
    assert [len(named) for named in bench.channel.named] == [10]
    assert bench.channel.counted == [24]
    assert bench.mx.asked == 11  # one failed, so an eleventh was asked for
    rows = await bench.sql("SELECT state, count(*) FROM reconnections GROUP BY state ORDER BY state")
    assert [tuple(row) for row in rows] == [("due", 1), ("notified", 24)]
    assert await bench.one("SELECT count(*) FROM notification_reconnections") == 24
