"""On which days does a user get messages if an answer was lost?"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from worker.channels import Dispatching, Message, Outcome, Sent, Unknown
from worker.mx import answers as mx
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.transactions.retry import RetryStore

_URI = "https://bank.example/oauth/authorize?state=0123456789abcdef"
#: A little more than a day, so that a message that is due a day after another is due at the next look.
_DAY = timedelta(days=1, minutes=1)
#: The days on which the stages run: the expected days of messages, and a day shortly before each. A message at a wrong moment
#: leaves in the next of these runs, on a day that is not expected.
_LOOKS = (0, 0.5, 1, 2.5, 3, 6.5, 7, 8)


class Mx:
    """MX without a network; the member stays broken."""

    async def oauth_window(self, _user_guid: str, member_guid: str) -> Any:
        return mx.Window(uri=_URI, member=mx.MemberState(guid=member_guid))

    async def read_member(self, _user_guid: str, member_guid: str) -> Any:
        return mx.MemberRead(member=mx.MemberState(guid=member_guid))

    async def close(self) -> None:
        pass


class Channel:
    """A channel that loses the answers to the messages with these numbers, from 0."""

    kind = "email"

    def __init__(self, lost: Sequence[int]) -> None:
        self.lost = lost
        self.messages: list[Message] = []

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        await dispatching()
        self.messages.append(message)
        return Unknown(code="data_timeout") if len(self.messages) - 1 in self.lost else Sent()

    async def close(self) -> None:
        pass


class Life:
    """A member that stays broken, and the days on which its user got a message."""

    def __init__(self, bench: Any, lost: Sequence[int]) -> None:
        self.bench = bench
        self.began = bench.runtime.clock.now()
        self.channel = Channel(lost)
        bench.runtime.mx, bench.runtime.channels = Mx(), {"email": self.channel}
        bench.runtime.set_clock = self._clock
        #: When the messages left, in days.
        self.days: list[float] = []

    async def _clock(self) -> Any:
        return self.bench.runtime.clock.now()

    async def live(self, *looks: float) -> None:
        """Run the stages on these days."""
        runtime = self.bench.runtime
        for look in looks:
            now = self.began + look * _DAY
            runtime.clock.set(now)
            before = len(self.channel.messages)
            for stage in (sweep, fetch, deliver):
                await stage(runtime)
            self.days += [look] * (len(self.channel.messages) - before)


@pytest.fixture
async def life_for(bench_for: Any) -> Any:
    async def make(lost: Sequence[int], **settings: Any) -> Life:
        bench = await bench_for(**{"reminder_days": "0,3,7", "message_caps": "1/23h"} | settings)
        await bench.runtime.mx.close()
        await bench.member("a", connection_status="DENIED")
        return Life(bench, lost)

    return make


@pytest.mark.parametrize(
    ("lost", "days"),
    [
        ([0], [0, 1, 3, 7]),  # the first message
        ([0, 1], [0, 1, 3, 7]),  # the first message and its follow-up: there is no second follow-up
        ([1], [0, 3, 7]),  # a reminder: the next one is the retry
        ([0, 2], [0, 1, 3, 7]),
    ],
)
async def test_a_first_message_that_may_not_have_arrived_is_followed_up_and_reminders_keep_their_days(
    life_for: Any, lost: Sequence[int], days: Sequence[int]
) -> None:
    life = await life_for(lost)
    await life.live(*_LOOKS)
    assert life.days == days
    assert len({message.key for message in life.channel.messages}) == len(days)
    firsts = [message.step == 0 for message in life.channel.messages]
    assert firsts == [number == 0 or (number == 1 and 0 in lost) for number in range(len(days))]


@pytest.mark.parametrize(("reminders", "days"), [("0,1,3", [0, 1, 3]), ("0,2", [0, 1, 2]), ("0", [0, 1])])
async def test_nothing_is_followed_up_where_a_reminder_is_due_by_then(
    life_for: Any, reminders: str, days: Sequence[int]
) -> None:
    life = await life_for([0], reminder_days=reminders)
    await life.live(0, 0.5, 1, 1.5, 2, 2.5, 3, 4)
    assert life.days == days


async def test_a_follow_up_waits_for_the_caps_as_every_message_does(life_for: Any) -> None:
    life = await life_for([0], message_caps="1/2d")
    await life.live(0, 1, 1.5, 2, 2.5)
    assert life.days == [0, 2]


async def test_a_message_whose_worker_died_is_followed_up_too(life_for: Any) -> None:
    life = await life_for([])
    bench = life.bench
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    past = bench.stored(life.began - timedelta(days=1000))
    await bench.sql(
        "UPDATE notifications SET state = 'sending', lease_worker = 'dead', dispatched_at = :p, lease_expires_at = :p",
        p=past,
    )
    await life.live(0, 0.5, 1, 2.5, 3, 4)
    assert await bench.one("SELECT outcome FROM notifications WHERE state = 'unknown'") == "worker_died"
    assert life.days == [1, 3]


@pytest.mark.parametrize(
    ("lost", "before", "retried", "days"),
    [
        ([0], 0.5, 0.5, [0, 0.5, 3, 7]),
        ([0, 1], 0.5, 0.5, [0, 0.5, 3, 7]),  # the requeued message's answer is lost too
        ([0, 1], 1.5, 1.5, [0, 1, 1.5, 3, 7]),  # the answer to the follow-up was lost
        ([1], 3.5, 4.0, [0, 3, 4, 7]),  # a reminder
    ],
)
async def test_an_unknown_message_that_is_requeued_costs_no_reminder(
    life_for: Any, lost: Sequence[int], before: float, retried: float, days: Sequence[float]
) -> None:
    life = await life_for(lost, message_caps="")
    await life.live(*sorted(look for look in (*_LOOKS, 1.5) if look < before))
    runtime = life.bench.runtime
    assert await RetryStore(runtime.database).unknown(None, now=runtime.clock.now()) == 1
    await life.live(retried, *(look for look in _LOOKS if look > retried))
    assert life.days == days
    assert await life.bench.one("SELECT count(*) FROM notifications WHERE state = 'unknown'") == max(len(lost) - 1, 0)
