"""After dispatch, a fault on our side leaves the message ``unknown``, and it is not sent again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from worker.channels import Dispatching, Message, Outcome, Sent
from worker.errors import DatabaseUnavailable
from worker.mx import answers as mx
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.transactions.deliver import DeliverStore

_URI = "https://bank.example/oauth/authorize?state=0123456789abcdef"
_ADDRESSES = {"email": None, "fcm": "token-1"}


class Torn(BaseException):
    """A ``BaseException`` that is no ``Exception``: ``except Exception`` does not catch it."""


class Mx:
    """MX without a network: a window for everybody."""

    async def oauth_window(self, _user_guid: str, member_guid: str) -> Any:
        return mx.Window(uri=_URI, member=mx.MemberState(guid=member_guid))

    async def close(self) -> None:
        pass


class Channel:
    """A channel that raises ``error`` at the moment ``when``, or hangs there if ``error`` is None.

    The moments: ``before dispatch``, ``on record`` (dispatch is committed, nothing is sent), ``sent``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.error: BaseException | None = None
        self.when = "never"
        self.sent: list[str] = []
        self.at_the_gate = asyncio.Event()

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        await self._perhaps("before dispatch")
        await dispatching()
        await self._perhaps("on record")
        self.sent.append(message.key)
        await self._perhaps("sent")
        return Sent()

    async def _perhaps(self, when: str) -> None:
        if self.when != when:
            return
        self.at_the_gate.set()
        if self.error is None:
            await asyncio.Event().wait()
        else:
            raise self.error

    async def close(self) -> None:
        pass


Situation = tuple[Any, Channel]


@pytest.fixture
async def situation_for(bench_for: Any) -> Callable[..., Any]:
    """A message that is due on a channel, without a network to MX or to the channel: ``await situation_for("fcm")``."""

    async def make(kind: str = "email", **settings: Any) -> Situation:
        bench = await bench_for(**settings)
        await bench.runtime.mx.close()
        channel = Channel(kind)
        bench.runtime.mx, bench.runtime.channels = Mx(), {kind: channel}
        address = _ADDRESSES[kind]
        await bench.member("a", connection_status="DENIED", email="" if address is None else None)
        if address is not None:
            await bench.sql(
                "INSERT INTO devices (user_guid, device_kind, device_address) VALUES ('USR-a', :k, :a)",
                k=kind,
                a=address,
            )
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        return bench, channel

    return make


async def _everything_again(bench: Any, channel: Channel) -> None:
    """Run the stages as if much later: the leases have expired, pending messages are due, and the fault is over."""
    channel.when = "never"
    past = {"past": bench.stored(bench.runtime.clock.now().replace(year=2020))}
    await bench.sql("UPDATE notifications SET lease_expires_at = :past WHERE state = 'sending'", **past)
    await sweep(bench.runtime)  # recovers the expired leases
    for _ in range(2):
        await bench.sql("UPDATE notifications SET next_attempt_at = :past WHERE state = 'pending'", **past)
        await fetch(bench.runtime)
        await deliver(bench.runtime)


@pytest.mark.parametrize("kind", _ADDRESSES)
@pytest.mark.parametrize("when", ["before dispatch", "on record", "sent"])
async def test_a_channel_that_raises_leaves_pending_what_was_not_dispatched_and_unknown_what_was(
    situation_for: Any, kind: str, when: str
) -> None:
    bench, channel = await situation_for(kind)
    channel.when, channel.error = when, RuntimeError("a fault of ours")
    await deliver(bench.runtime)
    (row,) = await bench.sql("SELECT state, attempts FROM notifications")
    assert tuple(row) == (("pending", 1) if when == "before dispatch" else ("unknown", 0))
    await _everything_again(bench, channel)
    assert len(channel.sent) == (0 if when == "on record" else 1)
    assert (await bench.states())["MBR-a"] == "notified"


@pytest.mark.parametrize("error", [OSError(), asyncio.CancelledError(), Torn()], ids=repr)
@pytest.mark.parametrize(("policy", "state"), [("hold", ("unknown", 0)), ("resend", ("pending", 1))])
async def test_whatever_a_channel_raises_after_dispatch_is_an_answer_that_was_lost(
    situation_for: Any, error: BaseException, policy: str, state: tuple[str, int]
) -> None:
    bench, channel = await situation_for(ambiguous_sends=policy)
    channel.when, channel.error = "sent", error
    await deliver(bench.runtime)
    (row,) = await bench.sql("SELECT state, attempts FROM notifications")
    assert tuple(row) == state


@pytest.mark.parametrize(
    ("when", "policy", "state"),
    [
        ("before dispatch", "hold", "pending"),
        ("on record", "hold", "unknown"),
        ("sent", "hold", "unknown"),
        ("sent", "resend", "pending"),
    ],
)
async def test_a_task_that_is_cut_short_hands_back_only_what_was_not_dispatched(
    situation_for: Any, when: str, policy: str, state: str
) -> None:
    bench, channel = await situation_for(ambiguous_sends=policy)
    channel.when = when
    delivering = asyncio.create_task(deliver(bench.runtime))
    await channel.at_the_gate.wait()
    delivering.cancel()  # as a soft time limit does
    await asyncio.wait([delivering])
    (row,) = await bench.sql("SELECT state, lease_worker FROM notifications")
    assert tuple(row) == (state, None)
    if policy == "hold":
        await _everything_again(bench, channel)
        assert len(channel.sent) == (0 if when == "on record" else 1)


@pytest.mark.parametrize("when", ["never", "on record", "before dispatch"])
async def test_a_database_that_fails_while_it_takes_the_result_doubles_nothing(
    situation_for: Any, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, channel = await situation_for()
    channel.when, channel.error = when, RuntimeError()

    async def settle(*_: Any, **__: Any) -> int:
        raise DatabaseUnavailable("database: away")

    with monkeypatch.context() as away:
        away.setattr(DeliverStore, "settle", settle)
        with pytest.raises(DatabaseUnavailable):
            await deliver(bench.runtime)
    assert await bench.one("SELECT state FROM notifications") == "sending"
    await _everything_again(bench, channel)
    states = [row[0] for row in await bench.sql("SELECT state FROM notifications")]
    assert states == (["sent"] if when == "before dispatch" else ["unknown"])
    assert len(channel.sent) == (0 if when == "on record" else 1)


async def test_a_database_that_fails_while_it_records_the_dispatch_costs_nothing(
    situation_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, channel = await situation_for()

    async def mark_dispatched(*_: Any) -> set[int]:
        raise DatabaseUnavailable("database: away")

    with monkeypatch.context() as away:
        away.setattr(DeliverStore, "mark_dispatched", mark_dispatched)
        await deliver(bench.runtime)
    rows = await bench.sql("SELECT state, attempts, outcome FROM notifications")
    assert [tuple(row) for row in rows] == [("pending", 0, "dispatch_not_recorded")]
    await _everything_again(bench, channel)
    assert len(channel.sent) == 1


@asynccontextmanager
async def _mail_server(hangs_at: str) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A mail server that stops answering at a verb, or after the text. Yields its port, and an event that it sets then."""
    silent, open_ = asyncio.Event(), set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(asyncio.current_task())
        try:
            writer.write(b"220 ready\r\n")
            while line := await reader.readline():
                verb = line.split()[0].decode().upper()
                if verb == hangs_at:
                    silent.set()
                    await reader.read()
                if verb == "DATA":
                    writer.write(b"354 go on\r\n")
                    await reader.readuntil(b"\r\n.\r\n")
                    silent.set()
                    await reader.read()
                writer.write(b"250 ok\r\n")
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], silent
    finally:
        server.close()
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)


@pytest.mark.parametrize(
    ("hangs_at", "begun", "left"),
    [
        ("MAIL", False, "pending"),
        ("RCPT", False, "pending"),
        ("DATA", True, "unknown"),
        ("the text", True, "unknown"),
    ],
)
async def test_a_mail_is_on_record_as_dispatched_from_data_on(
    bench_for: Any, sandbox_for: Any, hangs_at: str, begun: bool, left: str
) -> None:
    async with sandbox_for({"a": ["ok"]}) as sandbox, _mail_server(hangs_at) as (port, silent):
        bench = await bench_for(**sandbox.settings | {"smtp_url": f"smtp://127.0.0.1:{port}?tls=none"})
        await bench.member("a", connection_status="DENIED")
        await sweep(bench.runtime)
        await fetch(bench.runtime)
        delivering = asyncio.create_task(deliver(bench.runtime))
        async with asyncio.timeout(80):
            await silent.wait()
            found = None
            while found != ("sending", begun):  # the row that a SIGKILL would leave now
                (row,) = await bench.sql("SELECT state, dispatched_at IS NOT NULL FROM notifications")
                found = (row[0], bool(row[1]))
                assert not delivering.done()
                assert begun or not found[1]
        delivering.cancel()
        await asyncio.wait([delivering])
        assert await bench.one("SELECT state FROM notifications") == left
