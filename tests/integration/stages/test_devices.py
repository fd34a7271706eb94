"""Users with several devices: a dead device is not tried again, the next device is, and no user is told twice."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from worker.policy.channel_choice import MOST_DEVICES
from worker.sandbox.phones import apple, google, push_service
from worker.sandbox.phones.network import Device, Phones
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep

KINDS = ("fcm", "apns", "webpush")
#: Answers that mean that the device is gone. The others of that meaning are in tests/integration/channels and test_push_errors.
DEAD = [
    ("fcm", google.error(404, "NOT_FOUND", "UNREGISTERED")),
    ("fcm", google.error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")),  # FCM's answer today
    ("apns", "Unregistered"),
    ("apns", "BadDeviceToken"),  # a wrong setting has this answer too
    ("webpush", (410, "")),
]
#: Answers that refuse the message; the device may be well.
REFUSED = [
    ("fcm", google.error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", field="message.data[0].value")),
    ("apns", "PayloadEmpty"),
    ("webpush", (413, "")),
]
#: The answer is lost after the message left.
LOST = [("fcm", google.DROP), ("apns", apple.DROP), ("webpush", push_service.DROP)]


#: Both databases get the same statements here, so most tests run on SQLite alone, which is faster.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ON_BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@dataclass
class Stage:
    """A worker with a sandbox, a mailbox and phones; the test runs its stages sweep, fetch and deliver."""

    bench: Any
    sandbox: Any
    phones: Phones
    devices: list[str] = field(default_factory=list)

    def answer(self, kind: str, *answers: Any) -> None:
        """Set the provider's next answers. It gives them whatever the request is."""
        services = {"fcm": self.phones.google, "apns": self.phones.apple, "webpush": self.phones.push_service}
        services[kind].answers = list(answers)

    async def customer(self, name: str, *kinds: str, email: str | None = None) -> None:
        """Write a broken member whose user prefers push and has these devices, the oldest first."""
        await self.bench.member(name, connection_status="DENIED", email=email)
        await self.bench.sql("UPDATE users SET channel = 'push'")
        for kind in kinds:
            address = self.phones.sign_up(Device(kind=kind))
            self.devices.append(address)
            await self.bench.sql(
                "INSERT INTO devices (user_guid, device_kind, device_address) VALUES (:u, :k, :a)",
                u=f"USR-{name}",
                k=kind,
                a=address,
            )

    async def work(self, times: int = 1) -> None:
        """Run one sweep, then fetch and deliver ``times`` times."""
        await sweep(self.bench.runtime)
        for _ in range(times):
            await fetch(self.bench.runtime)
            await deliver(self.bench.runtime)

    async def work_with_every_sweep(self, times: int) -> None:
        for _ in range(times):
            await self.work()

    def told(self) -> list[int]:
        """How many messages each device got, in the order in which the devices were added."""
        return [self.phones.delivered()[address] for address in self.devices]

    async def disabled(self) -> list[bool]:
        """Whether each device is disabled."""
        return [bool(row[0]) for row in await self.bench.sql("SELECT disabled_at IS NOT NULL FROM devices ORDER BY id")]

    async def notifications(self) -> list[tuple[str, str]]:
        rows = await self.bench.sql("SELECT channel, state FROM notifications ORDER BY id")
        return [(row[0], row[1]) for row in rows]

    async def spoken(self) -> Any:
        """How many steps of the cadence each reconnection has done."""
        return [row[0] for row in await self.bench.sql("SELECT step - base_step FROM reconnections ORDER BY id")]


@pytest.fixture
async def stage(bench_for: Any, sandbox_for: Any, tmp_path: Path) -> AsyncIterator[Stage]:
    phones = Phones(tmp_path / "keys")
    application = web.Application()
    application.router.add_routes(phones.routes())
    async with TestServer(application) as server, phones.running():
        phones.base_url = str(server.make_url("")).rstrip("/")
        settings = {name.lower(): value for name, value in phones.settings().items()}
        async with sandbox_for({name: ["ok"] for name in ("a", *(f"b{n}" for n in range(8)))}) as sandbox:
            yield Stage(await bench_for(**sandbox.settings, **settings), sandbox, phones)


@ON_SQLITE
@pytest.mark.parametrize(("kind", "answer"), DEAD)
async def test_the_next_device_is_tried_in_the_same_step_and_tells_them_once(
    stage: Stage, kind: str, answer: Any
) -> None:
    await stage.customer("a", kind, kind, email="a@mail.example")
    stage.answer(kind, answer)
    await stage.work(times=2)
    await stage.work()
    assert stage.told() == [1, 0]  # the newest was tried first
    assert await stage.disabled() == [False, True]
    assert await stage.notifications() == [(kind, "suppressed"), (kind, "sent")]
    assert await stage.spoken() == [1]
    assert await stage.sandbox.mails() == []


@ON_BOTH
@pytest.mark.parametrize("kind", KINDS)
async def test_a_dead_device_of_one_is_no_second_message_to_another(stage: Stage, kind: str) -> None:
    await stage.customer("b0", kind)
    await stage.work()
    await stage.customer("a", kind, kind)
    stage.answer(kind, next(answer for of, answer in DEAD if of == kind))
    await stage.work_with_every_sweep(times=3)
    assert stage.told() == [1, 1, 0]
    assert await stage.spoken() == [1, 1]


@ON_SQLITE
@pytest.mark.parametrize("kind", KINDS)
async def test_without_another_device_mail_follows_once(stage: Stage, kind: str) -> None:
    answer = next(answer for of, answer in DEAD if of == kind)
    await stage.customer("a", kind, kind, email="a@mail.example")
    stage.answer(kind, answer, answer)
    await stage.work(times=3)
    await stage.work()
    assert stage.told() == [0, 0]
    assert await stage.disabled() == [True, True]
    assert await stage.notifications() == [(kind, "suppressed"), (kind, "suppressed"), ("email", "sent")]
    assert [mail["recipients"] for mail in await stage.sandbox.mails()] == [["a@mail.example"]]
    assert await stage.spoken() == [1]


@ON_SQLITE
@pytest.mark.parametrize("kind", KINDS)
async def test_without_another_device_another_kind_of_push_comes_before_mail(stage: Stage, kind: str) -> None:
    other = KINDS[KINDS.index(kind) - 1]
    await stage.customer("a", kind, other, email="a@mail.example")
    await stage.bench.sql("UPDATE users SET channel = :k", k=kind)
    stage.answer(kind, next(answer for of, answer in DEAD if of == kind))
    await stage.work(times=2)
    await stage.work()
    assert await stage.notifications() == [(kind, "suppressed"), (other, "sent")]
    assert stage.told() == [0, 1]
    assert await stage.sandbox.mails() == []


@ON_SQLITE
@pytest.mark.parametrize(("kind", "answer"), REFUSED)
async def test_a_refused_message_blames_no_device_and_falls_back_on_mail(stage: Stage, kind: str, answer: Any) -> None:
    await stage.customer("a", kind, email="a@mail.example")
    stage.answer(kind, answer)
    await stage.work(times=2)
    await stage.work()
    assert await stage.disabled() == [False]
    assert await stage.notifications() == [(kind, "failed"), ("email", "sent")]
    assert len(await stage.sandbox.mails()) == 1


@ON_BOTH
@pytest.mark.parametrize(("kind", "answer"), REFUSED)
async def test_after_a_refused_message_the_next_device_is_tried_and_each_once(
    stage: Stage, kind: str, answer: Any
) -> None:
    await stage.customer("a", kind, kind, kind, email="a@mail.example")
    stage.answer(kind, answer, answer)
    await stage.work(times=3)
    await stage.work()
    assert stage.told() == [1, 0, 0]  # the newest first, then the next, then the oldest
    assert await stage.disabled() == [False] * 3
    assert await stage.notifications() == [(kind, "failed"), (kind, "failed"), (kind, "sent")]
    assert await stage.spoken() == [1]
    assert await stage.sandbox.mails() == []


@ON_SQLITE
async def test_of_many_devices_that_refuse_only_the_newest_are_tried_before_mail(stage: Stage) -> None:
    await stage.customer("a", *["fcm"] * (MOST_DEVICES + 2), email="a@mail.example")
    refused = google.error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", field="message.data[0].value")
    stage.answer("fcm", *[refused] * (MOST_DEVICES + 1))
    await stage.work(times=MOST_DEVICES + 1)
    assert await stage.notifications() == [("fcm", "failed")] * MOST_DEVICES + [("email", "sent")]


@ON_SQLITE
@pytest.mark.parametrize(("kind", "answer"), LOST)
async def test_a_lost_answer_is_unknown_and_nobody_tries_another_way(stage: Stage, kind: str, answer: Any) -> None:
    await stage.customer("a", kind, kind, email="a@mail.example")
    stage.answer(kind, answer)
    await stage.work(times=2)
    await stage.work()
    assert await stage.notifications() == [(kind, "unknown")]
    assert await stage.disabled() == [False, False]
    assert stage.told() == [0, 0]
    assert await stage.sandbox.mails() == []


@ON_BOTH
async def test_a_wrong_apns_setting_costs_a_few_devices_and_not_all(stage: Stage) -> None:
    for number in range(8):
        await stage.customer(f"b{number}", "apns")
    stage.phones.apple.devices.clear()  # Apple's sandbox does not know tokens of production, or the other way round
    await stage.work()
    assert sum(await stage.disabled()) == 5
    assert await stage.bench.one("SELECT reason FROM pauses WHERE scope = 'delivery:apns'") == "bad_device_token"
    stage.phones.apple.devices.update(stage.devices)  # the setting is corrected
    await stage.bench.sql("UPDATE devices SET disabled_at = NULL")
    await stage.bench.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
    await stage.bench.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00' WHERE state = 'due'")
    await stage.work(times=2)
    assert stage.told() == [1] * 8


@ON_BOTH
@pytest.mark.parametrize("gone", ["email = NULL", "refused_email = email"])
async def test_where_the_address_goes_while_the_message_waits_another_way_is_taken_in_the_same_step(
    stage: Stage, gone: str
) -> None:
    await stage.bench.member("a", connection_status="DENIED", email="a@mail.example")
    await sweep(stage.bench.runtime)
    await fetch(stage.bench.runtime)
    address = stage.phones.sign_up(Device(kind="fcm"))
    stage.devices.append(address)
    await stage.bench.sql(
        "INSERT INTO devices (user_guid, device_kind, device_address) VALUES ('USR-a', 'fcm', :a)", a=address
    )
    await stage.bench.sql(f"UPDATE users SET {gone}")
    await deliver(stage.bench.runtime)
    assert await stage.spoken() == [0]
    await stage.work()
    assert stage.told() == [1]
    assert await stage.notifications() == [("email", "suppressed"), ("fcm", "sent")]


@ON_SQLITE
async def test_a_channel_that_this_process_lacks_is_not_planned_for_again_at_once(stage: Stage) -> None:
    """The process that fetches may have the channel. Without the wait, one would plan and the other suppress a message for ever."""
    await stage.customer("a", "fcm")
    await sweep(stage.bench.runtime)
    await fetch(stage.bench.runtime)
    channels = stage.bench.runtime.channels
    stage.bench.runtime.channels = {}
    await deliver(stage.bench.runtime)
    stage.bench.runtime.channels = channels
    assert await stage.spoken() == [0]
    await stage.work()
    assert stage.told() == [0], "it is due again in an hour"
