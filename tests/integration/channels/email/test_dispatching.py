"""``dispatching`` is on record before DATA is sent, whatever else happens."""

import asyncio
from contextlib import suppress

import pytest

from worker.channels import Sent, TryLater


async def round_trips(server, times=20):
    """Let the server serve somebody else for a while: what was already sent to it is seen by then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await reader.readline()
    for _ in range(times):
        writer.write(b"NOOP\r\n")
        await reader.readline()
    writer.close()
    await writer.wait_closed()


class Gate:
    """A ``dispatching`` that returns when it is let."""

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


async def test_data_waits_for_it_however_long_it_takes(server, connect, make_message, gate):
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await server.until(lambda: "RCPT" in server.verbs)
    await gate.begun.wait()
    await round_trips(server)
    assert "DATA" not in server.verbs
    gate.open.set()
    assert await sending == Sent()
    verbs = [verb for verb in server.verbs if verb in {"MAIL", "RCPT", "RECORDED", "DATA"}]
    assert verbs == ["MAIL", "RCPT", "RECORDED", "DATA"]


async def test_it_begins_while_the_server_still_ponders_over_the_recipient(serve, connect, make_message):
    server = await serve(RCPT="HANG")
    gate = Gate(server)
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await asyncio.wait_for(gate.begun.wait(), 10)
    assert "DATA" not in server.verbs
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_it_is_not_begun_before_the_sender_is_accepted(serve, connect, make_message, record):
    server = await serve(MAIL="451 later")
    await connect(server).send(make_message(), record)
    assert record.times == 0


async def test_a_refused_recipient_waits_for_it_too(serve, connect, make_message):
    server = await serve(RCPT="450 later")
    gate = Gate(server)
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await server.until(lambda: "RCPT" in server.verbs)
    await round_trips(server)
    assert not sending.done()
    gate.open.set()
    assert await sending == TryLater(code="rcpt_450")
    assert "DATA" not in server.verbs


@pytest.mark.parametrize("error", [OSError, TimeoutError, ConnectionResetError, RuntimeError, KeyError])
async def test_if_it_fails_nothing_is_sent_and_its_error_comes_out(server, connect, make_message, record, error):
    async def dispatching():
        raise error("no lease any more")

    channel = connect(server)
    with pytest.raises(error, match="no lease"):
        await channel.send(make_message(), dispatching)
    assert "DATA" not in server.verbs
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 2


async def test_a_connection_that_is_lost_meanwhile_was_not_used_for_data(serve, connect, make_message):
    server = await serve(RCPT="DROP")
    gate = Gate(server)
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await server.until(lambda: "RCPT" in server.verbs and server.open == 0)
    gate.open.set()
    assert await sending == TryLater(code="rcpt_disconnected")


async def test_a_connection_that_is_lost_after_rcpt_was_not_used_for_data(server, connect, make_message):
    channel = connect(server)
    open_connection = channel._pool.open
    lost = asyncio.Event()

    async def dispatching():
        await server.until(lambda: "RCPT" in server.verbs)
        await lost.wait()

    async def open_and_watch():
        connection = await open_connection()
        protocol = connection.smtp.protocol
        told = protocol._connection_lost_callback
        protocol._connection_lost_callback = lambda it: (told(it), lost.set())
        return connection

    channel._pool.open = open_and_watch
    sending = asyncio.create_task(channel.send(make_message(), dispatching))
    await server.until(lambda: "RCPT" in server.verbs)
    await round_trips(server)
    await server.hang_up()
    assert await sending == TryLater(code="rcpt_disconnected")
    assert "DATA" not in server.verbs


async def test_a_cancelled_send_cancels_it_and_leaves_nothing_running(server, connect, make_message, gate):
    sending = asyncio.create_task(connect(server).send(make_message(), gate))
    await gate.begun.wait()
    await server.until(lambda: "RCPT" in server.verbs)
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    assert sending.cancelled()
    await server.until(lambda: server.open == 0)
    gate.open.set()
    await round_trips(server)
    assert "DATA" not in server.verbs
    assert "RECORDED" not in server.verbs
