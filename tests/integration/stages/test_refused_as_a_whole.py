"""A mail server or push service that refuses us as a whole pauses its channel. No attempt, step or address is lost."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import text

from worker.channels import ChannelDown, Dispatching, Message, Outcome, Sent
from worker.sandbox.phones import google
from worker.sandbox.phones.network import Device, Phones
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.transactions.deliver import DeliverStore

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

#: By the fault: how many messages are due, and a part of the pause's reason. If nothing was accepted yet, a few refusals suffice.
STOPPED = {
    "rcpt:554 5.7.1 Service unavailable; client host blocked using a block list": (40, "554 5.7.1 at RCPT"),
    "rcpt:554 5.7.1 Client host blocked": (3, "554 5.7.1 at RCPT"),
    "rcpt:550 Administrative prohibition": (5, "550 at RCPT"),
    "rcpt:451 4.7.1 Try again later": (5, "451 4.7.1 at RCPT"),
    "data:554 5.7.1 Message refused": (30, "554 5.7.1 after the mail's text"),
    "data:550 5.7.1 Client does not have permissions to send as this sender": (1, "data_550"),
    # Recognized by its code; tests/unit/channels/email has the other codes that concern the sender.
    "data:550 5.4.5 Daily user sending limit exceeded": (1, "data_550"),
    "data:452 4.3.1 Insufficient system storage": (5, "452 4.3.1 after the mail's text"),
    "mail:550 5.7.1 Sender rejected": (1, "mail_550"),
    "mail:452 4.3.1 Insufficient system storage": (5, "452 4.3.1 at MAIL"),
    "auth-required": (1, "auth_refused"),
    "421": (5, "421 4.3.2 at MAIL"),
    "drop:before-data": (5, "disconnected at DATA"),
    "rcpt:550 5.1.1 User unknown": (40, "550 5.1.1 at RCPT"),
    "rcpt:550 5.4.1 Recipient address rejected": (40, "550 5.4.1 at RCPT"),
}


class Office:
    """A worker and its mail server. :meth:`work` runs sweep, fetch and deliver once."""

    def __init__(self, bench: Any, sandbox: Any) -> None:
        self.bench, self.sandbox = bench, sandbox

    async def customers(self, *addresses: str) -> None:
        await self.bench.members(*(f"m{number}" for number in range(len(addresses))), connection_status="DENIED")
        async with self.bench.runtime.database.engine.begin() as connection:
            await connection.execute(
                text("UPDATE users SET email = :e WHERE user_guid = :u"),
                [{"u": f"USR-m{number}", "e": address} for number, address in enumerate(addresses)],
            )

    async def work(self) -> None:
        await sweep(self.bench.runtime)
        await fetch(self.bench.runtime)
        await deliver(self.bench.runtime)

    async def pass_time(self) -> None:
        """Make pending messages and probes due, but no reminders."""
        past = self.bench.stored(self.bench.runtime.clock.now() - timedelta(minutes=1))
        for statement in (
            "UPDATE notifications SET next_attempt_at = :past WHERE state = 'pending'",
            "UPDATE pauses SET probe_at = :past",
        ):
            await self.bench.sql(statement, past=past)

    async def rows(self) -> list[tuple[str, int]]:
        rows = await self.bench.sql("SELECT state, attempts FROM notifications ORDER BY id")
        return [(row[0], row[1]) for row in rows]

    async def reason(self) -> str | None:
        rows = await self.bench.sql("SELECT reason FROM pauses WHERE scope = 'delivery:email'")
        return rows[0][0] if rows else None

    async def recipients(self) -> list[str]:
        return sorted(mail["recipients"][0] for mail in await self.sandbox.mails())


@pytest.fixture
def office(bench_for: Any, sandbox_for: Any) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_(count: int, **config: Any) -> AsyncIterator[Office]:
        async with sandbox_for({f"m{number}": ["ok"] for number in range(count)}) as sandbox:
            bench = await bench_for(**(sandbox.settings | config))
            yield Office(bench, sandbox)

    return open_


def addresses(count: int) -> list[str]:
    return [f"m{number}@host{number % 7}.example" for number in range(count)]


@ON_SQLITE
@pytest.mark.parametrize("fault", STOPPED)
async def test_a_refusal_of_us_all_stops_the_channel_and_costs_nothing(office: Any, fault: str) -> None:
    count, named = STOPPED[fault]
    async with office(count) as at:
        await at.sandbox.control(mail_faults=[{"fault": fault}])
        await at.customers(*addresses(count))
        await at.work()
        assert named in str(await at.reason())
        assert await at.rows() == [("pending", 0)] * count
        steps = await at.bench.sql("SELECT DISTINCT state, step, base_step FROM reconnections")
        assert [tuple(row) for row in steps] == [("ready", 0, 0)]
        assert await at.bench.one("SELECT count(*) FROM users WHERE refused_email IS NOT NULL") == 0
        # The probe is refused too, and it costs no attempt either.
        await at.pass_time()
        at.bench.runtime.channels["email"]._pool.backoff._until = 0
        await deliver(at.bench.runtime)
        assert await at.rows() == [("pending", 0)] * count
        # When the fault is over, one probe closes the breaker, and every user is told once.
        await at.sandbox.control(mail_faults=[])
        await at.pass_time()
        at.bench.runtime.channels["email"]._pool.backoff._until = 0
        await deliver(at.bench.runtime)
        assert await at.reason() is None
        assert await at.recipients() == sorted(addresses(count))
        assert {state for state, _ in await at.rows()} == {"sent"}


@ON_SQLITE
@pytest.mark.parametrize(
    ("server", "named"),
    [
        ("smtp://127.0.0.1:{port}?tls=none", "refused on connecting"),
        ("smtp://nowhere.invalid:25?tls=required", "unresolved on connecting"),
    ],
)
async def test_a_mail_server_that_is_not_there_stops_the_channel_at_once(
    office: Any, unused_tcp_port: int, server: str, named: str
) -> None:
    async with office(2, smtp_url=server.format(port=unused_tcp_port)) as at:
        await at.customers(*addresses(2))
        await at.work()
        assert "cannot be reached" in str(await at.reason())
        assert named in str(await at.reason())
        assert await at.rows() == [("pending", 0)] * 2


@pytest.mark.parametrize("fault", ["rcpt:554 5.7.1 Not from you", "data:550 5.7.1 Spam", "rcpt:550 5.1.1 Unknown"])
async def test_one_recipient_who_is_refused_is_that_recipients_affair(office: Any, fault: str) -> None:
    async with office(6) as at:
        await at.sandbox.control(mail_faults=[{"fault": fault, "to": "m0@*"}])
        await at.customers(*addresses(6))
        await at.work()
        assert await at.reason() is None
        assert (await at.rows())[0][0] in {"failed", "suppressed"}
        assert await at.recipients() == addresses(6)[1:]


@pytest.mark.parametrize(
    "fault",
    [
        "rcpt:550 5.7.23 Rejected because of a Sender Policy Framework violation",
        "rcpt:550 5.7.1 You are not authorized to send to this group",
        "data:550 5.7.26 Unauthenticated mail is not accepted",
    ],
)
async def test_one_recipient_refused_in_words_about_us_does_not_keep_the_channel_shut(office: Any, fault: str) -> None:
    """Its refusal pauses the channel, since nothing was accepted yet that day. The next probe is another mail and is accepted."""
    async with office(4) as at:
        await at.sandbox.control(mail_faults=[{"fault": fault, "to": "m0@*"}])
        await at.customers(*addresses(1))
        await at.work()
        assert await at.reason()
        for number in range(1, 4):
            await at.bench.member(f"m{number}", email=addresses(4)[number], connection_status="DENIED")
        await sweep(at.bench.runtime)
        await fetch(at.bench.runtime)
        for _ in range(3):
            await at.bench.sql("UPDATE pauses SET probe_at = :past", past=at.bench.stored(at.bench.runtime.clock.now()))
            at.bench.runtime.channels["email"]._pool.backoff._until = 0
            await deliver(at.bench.runtime)
        assert await at.reason() is None
        assert await at.recipients() == addresses(4)[1:]
        assert await at.rows() == [("failed", 0)] + [("sent", 0)] * 3


@pytest.mark.parametrize("fault", ["rcpt:421 4.7.0 Try again", "rcpt:454 4.7.0 Later", "data:421 4.3.0 Later"])
async def test_one_recipient_who_is_always_told_to_come_later_comes_to_an_end_and_pauses_nobody(
    office: Any, fault: str
) -> None:
    async with office(4, max_attempts=3) as at:
        await at.sandbox.control(mail_faults=[{"fault": fault, "to": "m0@*"}])
        await at.customers(*addresses(4))
        await at.work()
        backoff = at.bench.runtime.channels["email"]._pool.backoff
        assert (await at.rows())[0] == ("pending", 0), "the first time it may be everybody's"
        for attempts in (1, 2):
            await at.pass_time()
            backoff._until = 0
            await deliver(at.bench.runtime)
            assert backoff.paused() is None
            assert (await at.rows())[0] == ("pending", attempts)
        await at.pass_time()
        await deliver(at.bench.runtime)
        assert await at.rows() == [("failed", 2)] + [("sent", 0)] * 3
        assert await at.reason() is None


async def test_a_relay_that_takes_fewer_than_we_send_costs_nobody_an_attempt(office: Any) -> None:
    async with office(12, max_attempts=2) as at:
        # A relay with a rate limit refuses half of all tries, whoever the recipient is.
        await at.sandbox.control(mail_faults=[{"fault": "rcpt:454 4.7.0 Throttling", "share": 0.5, "seed": 7}])
        await at.customers(*addresses(12))
        await at.work()
        refused = 0
        for _ in range(30):
            states = await at.rows()
            refused += states.count(("pending", 0))
            assert set(states) <= {("pending", 0), ("sent", 0)}
            if states.count(("pending", 0)) <= 1:
                break
            await at.pass_time()
            at.bench.runtime.channels["email"]._pool.backoff._until = 0
            await deliver(at.bench.runtime)
        assert refused > 5


@ON_SQLITE
@pytest.mark.parametrize("fault", ["421", "rcpt:421 4.7.0 Try again", "rcpt:454 4.7.0 Later"])
async def test_a_relay_that_tells_everybody_to_come_later_costs_nobody_an_attempt(office: Any, fault: str) -> None:
    async with office(2) as at:
        await at.sandbox.control(mail_faults=[{"fault": fault}])
        await at.customers(*addresses(2))
        await at.work()
        for _ in range(3):
            await at.pass_time()
            at.bench.runtime.channels["email"]._pool.backoff._until = 0
            await deliver(at.bench.runtime)
            assert await at.rows() == [("pending", 0)] * 2


@ON_SQLITE
async def test_one_strict_domain_is_not_everybody(office: Any) -> None:
    """25 refusals of one domain in a row do not pause the channel; the recipients after them are told."""
    strict = [f"m{number}@strict.example" for number in range(25)]
    healthy = [f"m{number}@host.example" for number in range(25, 30)]
    async with office(30) as at:
        await at.sandbox.control(mail_faults=[{"fault": "rcpt:554 5.7.1 Not from you", "to": "*@strict.example"}])
        await at.customers(*strict, *healthy)
        await at.work()
        for _ in range(3):
            await at.pass_time()
            await deliver(at.bench.runtime)
        assert await at.recipients() == healthy
        assert await at.reason() is None
        assert sorted(state for state, _ in await at.rows()) == ["failed"] * 25 + ["sent"] * 5


async def test_what_a_streak_cost_before_it_was_seen_is_given_back(office: Any) -> None:
    """The three refusals happen in three runs, as on a small installation."""
    async with office(3) as at:
        await at.sandbox.control(mail_faults=[{"fault": "rcpt:554 5.7.1 Blocked"}])
        for number, address in enumerate(addresses(3)):
            await at.bench.member(f"m{number}", email=address, connection_status="DENIED")
            await at.work()
            if number < 2:
                assert [state for state, _ in await at.rows()] == ["failed"] * (number + 1)
        assert await at.rows() == [("pending", 0)] * 3
        steps = await at.bench.sql("SELECT DISTINCT state, step, base_step FROM reconnections")
        assert [tuple(row) for row in steps] == [("ready", 0, 0)]
        await at.sandbox.control(mail_faults=[])
        await at.pass_time()
        await at.work()
        assert await at.recipients() == sorted(addresses(3))


#: By the fault: the channel, the answer to every message, and how many are due.
PUSH = {
    "a payload that FCM does not take": ("fcm", google.error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), 25),
    "FCM is ill": ("fcm", google.error(500, "INTERNAL", "INTERNAL"), 4),
    "the VAPID key is another": ("webpush", (403, '{"reason": "VapidPkHashMismatch"}'), 4),
    "a push service is ill": ("webpush", (500, ""), 4),
    "APNs is ill": ("apns", "InternalServerError", 4),
}


@ON_SQLITE
@pytest.mark.parametrize("what", PUSH)
async def test_a_push_service_that_refuses_everybody_stops_its_channel_and_costs_no_device(
    bench_for: Any, sandbox_for: Any, tmp_path: Path, what: str
) -> None:
    kind, answer, count = PUSH[what]
    phones = Phones(tmp_path / "keys")
    application = web.Application()
    application.router.add_routes(phones.routes())
    async with TestServer(application) as server, phones.running():
        phones.base_url = str(server.make_url("")).rstrip("/")
        async with sandbox_for({f"m{number}": ["ok"] for number in range(count)}) as sandbox:
            settings = {name.lower(): value for name, value in phones.settings().items()}
            at = Office(await bench_for(mx_base_url=sandbox.addresses.base_url, **settings), sandbox)
            devices = [phones.sign_up(Device(kind=kind)) for _ in range(count)]
            for number, address in enumerate(devices):
                await at.bench.member(f"m{number}", email=None, connection_status="DENIED")
                await at.bench.sql(
                    "INSERT INTO devices (user_guid, device_kind, device_address) VALUES (:u, :k, :a)",
                    u=f"USR-m{number}", k=kind, a=address,
                )  # fmt: skip
            service = {"fcm": phones.google, "apns": phones.apple, "webpush": phones.push_service}[kind]
            service.answers = [answer] * count * 2
            await at.work()
            assert await at.bench.one("SELECT scope FROM pauses") == f"delivery:{kind}"
            assert await at.rows() == [("pending", 0)] * count
            assert await at.bench.one("SELECT count(*) FROM devices WHERE disabled_at IS NOT NULL") == 0
            service.answers = []
            await at.pass_time()
            await deliver(at.bench.runtime)
            assert phones.delivered() == dict.fromkeys(devices, 1)
            # Every message was sent in the end: it counts for the caps, and its device does not count as failed.
            guids = [f"USR-m{number}" for number in range(count)]
            day_ago = at.bench.runtime.clock.now() - timedelta(days=1)
            users = await at.bench.runtime.database.store(DeliverStore).users(guids, since=day_ago)
            assert {(len(user.sent), len(user.failed_devices)) for user in users.values()} == {(1, 0)}


class Push:
    """A push service that refuses one token with an error about our project."""

    kind = "fcm"

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        await dispatching()
        return ChannelDown(code="sender_id_mismatch") if message.address == "token-m0" else Sent()

    async def close(self) -> None:
        pass


@ON_SQLITE
async def test_one_token_of_another_project_does_not_keep_push_shut(bench_for: Any, sandbox_for: Any) -> None:
    async with sandbox_for({f"m{number}": ["ok"] for number in range(3)}) as sandbox:
        at = Office(await bench_for(**sandbox.settings), sandbox)
        at.bench.runtime.channels = {"fcm": Push()}
        for number in range(3):
            await at.bench.member(f"m{number}", email=None, connection_status="DENIED")
            await at.bench.sql(
                "INSERT INTO devices (user_guid, device_kind, device_address) VALUES (:u, 'fcm', :a)",
                u=f"USR-m{number}", a=f"token-m{number}",
            )  # fmt: skip
            await at.work()
        assert await at.bench.one("SELECT reason FROM pauses") == "sender_id_mismatch"
        for _ in range(2):
            await at.bench.sql("UPDATE pauses SET probe_at = :past", past=at.bench.stored(at.bench.runtime.clock.now()))
            await deliver(at.bench.runtime)
        assert await at.bench.one("SELECT count(*) FROM notifications WHERE state = 'sent'") == 2
