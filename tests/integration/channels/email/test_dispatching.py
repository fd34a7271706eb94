"""``dispatching`` runs while the server answers DATA, and ends before a byte of the text is sent, whatever else happens."""

import asyncio
from contextlib import suppress

import pytest

from worker.channels import Failed, Sent, TryLater


async def round_trips(server, times=20):
    """Send NOOPs on another connection: after their answers the server has also read everything that was sent to it before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    for _ in range(times):
        writer.write(b"NOOP\r\n")
        await reader.readline()
    writer.close()
    await writer.wait_closed()


class Gate:
    """A ``dispatching`` that returns once ``open`` is set."""

    def __init__(self, server):
        self._server = server
        self.begun, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self):
        self.begun.set()
        await self.open.wait()
        self._server.log.append((0, "RECORDED"))


@pytest.fixture
async def server(serve):
    return await serve()


@pytest.fixture
async def gate(server):
    return Gate(server)


async def test_the_text_waits_for_it_however_long_it_takes(server, connect, make_message, gate):
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await server.until(lambda: "DATA" in server.verbs)
    await gate.begun.wait()
    await round_trips(server)
    assert "INSIDE" not in server.verbs
    gate.open.set()
    assert await sending == Sent()
    verbs = [verb for verb in server.verbs if verb in {"MAIL", "RCPT", "RECORDED", "DATA", "INSIDE"}]
    assert verbs == ["MAIL", "RCPT", "DATA", "RECORDED", "INSIDE"]


async def test_it_begins_while_the_server_still_ponders_over_data(serve, connect, make_message):
    server = await serve(DATA="HANG")
    gate = Gate(server)
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await asyncio.wait_for(gate.begun.wait(), 40)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


@pytest.mark.parametrize(
    "replies",
    [{"MAIL": "451 later"}, {"RCPT": "450 later"}, {"RCPT": "550 5.1.1 nobody"}, {"RCPT": "421 bye"}, {"RCPT": "DROP"}],
    ids=str,
)
async def test_it_is_not_begun_before_sender_and_recipient_are_accepted(serve, connect, make_message, record, replies):
    server = await serve(**replies)
    await connect(server).send(make_message(), record)
    assert record.times == 0
    assert "DATA" not in server.verbs


@pytest.mark.parametrize("verb", ["MAIL", "RCPT"])
async def test_a_send_that_is_cancelled_before_data_has_nothing_on_record(serve, connect, make_message, record, verb):
    server = await serve(**{verb: "HANG"})
    sending = asyncio.create_task(connect(server).send(make_message(), record))
    await server.until(lambda: verb in server.verbs)
    sending.cancel()
    await asyncio.wait([sending])
    assert record.times == 0


@pytest.mark.parametrize(
    ("reply", "outcome"),
    {
        "451 later": TryLater(code="start_451"),
        "554 no": Failed(code="start_554"),
        "DROP": TryLater(code="start_disconnected"),
        "HANG": TryLater(code="start_timeout"),
    }.items(),
)
async def test_a_refused_data_was_certainly_not_sent(serve, connect, make_message, record, reply, outcome):  # noqa: PLR0917
    """The mail was not sent, although its dispatch is committed."""
    server = await serve(DATA=reply)
    channel = connect(server, command_patience=0.5 if reply == "HANG" else 10.0)
    assert await channel.send(make_message(), record) == outcome
    assert record.times == 1
    assert server.mails == []


async def test_a_refused_data_waits_for_it_too(serve, connect, make_message):
    server = await serve(DATA="451 later")
    gate = Gate(server)
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await server.until(lambda: "DATA" in server.verbs)
    await round_trips(server)
    assert not sending.done()
    gate.open.set()
    assert await sending == TryLater(code="start_451")


@pytest.mark.parametrize("error", [OSError, TimeoutError, ConnectionResetError, RuntimeError, KeyError])
async def test_if_it_fails_nothing_is_sent_and_its_error_comes_out(server, connect, make_message, record, error):
    async def dispatching():
        await server.until(lambda: "DATA" in server.verbs)
        await round_trips(server)  # by now the 354 has been sent
        raise error("no lease any more")

    channel = connect(server)
    with pytest.raises(error, match="no lease"):
        await channel.send(make_message(), dispatching)
    # The client hung up: after a 354 nothing else ends the dialogue without a mail.
    await server.until(lambda: server.open == 0)
    assert server.mails == []
    assert "." not in server.verbs
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 3  # including that of the round trips
    assert len(server.mails) == 1


async def test_a_connection_that_is_lost_meanwhile_was_not_used_for_the_text(server, connect, make_message):
    channel = connect(server)
    open_connection = channel._pool.open
    lost = asyncio.Event()

    async def dispatching():
        await server.until(lambda: "DATA" in server.verbs)
        await lost.wait()

    async def open_and_watch():
        connection = await open_connection()
        protocol = connection.smtp.protocol
        told = protocol._connection_lost_callback
        protocol._connection_lost_callback = lambda it: (told(it), lost.set())
        return connection

    channel._pool.open = open_and_watch
    sending = asyncio.create_task(channel.send(make_message(), dispatching))
    await server.until(lambda: "DATA" in server.verbs)
    await round_trips(server)
    await server.hang_up()
    assert await sending == TryLater(code="start_disconnected")
    assert server.mails == []


async def test_a_cancelled_send_cancels_it_and_leaves_nothing_running(server, connect, make_message, gate):
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await gate.begun.wait()
    await server.until(lambda: "DATA" in server.verbs)
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    assert sending.cancelled()
    await server.until(lambda: server.open == 0)
    gate.open.set()
    await round_trips(server)
    assert "INSIDE" not in server.verbs
    assert "RECORDED" not in server.verbs
