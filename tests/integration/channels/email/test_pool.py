"""When connections are kept and used again, and when they are closed."""

import asyncio

import pytest

from worker.channels import Sent, TryLater


async def test_nothing_connects_before_the_first_send(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    assert server.connections == 0
    await channel.send(make_message(), record)
    assert server.connections == 1


async def test_one_connection_carries_many_mails(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    for _ in range(10):
        assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 1
    assert server.verbs.count("EHLO") == 1
    assert len(server.mails) == 10


async def test_there_are_never_more_connections_than_the_setting_says(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server, connections=4, mails_per_connection=7)
    outcomes = await asyncio.gather(*(channel.send(make_message(), record) for _ in range(200)))
    assert outcomes == [Sent()] * 200
    assert server.most_open == 4
    assert server.connections > 4


async def test_connections_are_opened_as_they_are_needed(serve, connect, make_message, record):
    server = await serve(CONTENT="HANG")
    channel = connect(server, connections=3, data_patience=30)
    sending = [asyncio.create_task(channel.send(make_message(), record)) for _ in range(5)]
    await server.until(lambda: server.verbs.count("CONTENT") == 3)
    assert server.open == server.connections == 3
    for task in sending:
        task.cancel()
    await asyncio.wait(sending)
    await server.until(lambda: server.open == 0)


async def test_one_mail_at_a_time_goes_over_a_connection(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server, connections=3)
    await asyncio.gather(*(channel.send(make_message(), record) for _ in range(30)))
    for number in range(1, 4):
        dialogue = [line.split(" ")[0] for connection, line in server.log if connection == number]
        mails = dialogue.count("MAIL")
        assert dialogue == ["EHLO", *["MAIL", "RCPT", "DATA", "INSIDE", "CONTENT"] * mails]


async def test_a_connection_is_replaced_after_so_many_mails(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server, connections=1, mails_per_connection=3)
    for _ in range(7):
        assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 3
    assert server.verbs.count("QUIT") == 2
    assert server.most_open == 1


async def test_an_idle_connection_is_closed_after_a_while(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server, idle_seconds=0.1)
    await asyncio.gather(*(channel.send(make_message(), record) for _ in range(3)))
    await server.until(lambda: server.open == 0)
    assert server.verbs.count("QUIT") == 3
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 4


async def test_the_newest_connection_is_used_first_so_that_the_others_grow_old(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    await asyncio.gather(*(channel.send(make_message(), record) for _ in range(3)))
    before = len(server.log)
    for _ in range(5):
        await channel.send(make_message(), record)
    assert len({connection for connection, _ in server.log[before:]}) == 1


async def test_a_connection_that_the_server_closed_is_not_the_mails_fault(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    await channel.send(make_message(), record)
    await server.hang_up()
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 2


async def test_kept_connections_that_are_dropped_at_mail_are_replaced(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    await asyncio.gather(*(channel.send(make_message(), record) for _ in range(3)))
    server.replies["MAIL"] = ["DROP", "DROP", "DROP", "250 ok"]
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 4
    assert record.times == 4


async def test_a_fresh_connection_that_is_dropped_at_mail_is_not_tried_again_at_once(
    serve, connect, make_message, record
):
    server = await serve(MAIL="DROP")
    assert await connect(server).send(make_message(), record) == TryLater(code="mail_disconnected")
    assert server.connections == 1


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "INSIDE", "CONTENT"])
async def test_the_connection_of_a_cancelled_send_is_never_used_again(serve, connect, make_message, record, verb):
    server = await serve(**{verb: ["HANG", {"DATA": "354 go", "INSIDE": None}.get(verb, "250 ok")]})
    channel = connect(server, connections=1)
    sending = asyncio.create_task(channel.send(make_message(), record))
    await server.until(lambda: verb in server.verbs)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await channel.send(make_message(address="another@example.com"), record) == Sent()
    assert server.connections == 2
    assert [line for connection, line in server.log if connection == 2 and line.startswith("RCPT")] == [
        "RCPT TO:<another@example.com>"
    ]


async def test_a_send_cancelled_while_it_connects_leaves_no_connection(serve, connect, make_message, record):
    server = await serve(EHLO="HANG")
    sending = asyncio.create_task(connect(server).send(make_message(), record))
    await server.until(lambda: "EHLO" in server.verbs)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await server.until(lambda: server.open == 0)


async def test_a_send_cancelled_while_it_waits_for_a_connection_takes_none_away(serve, connect, make_message, record):
    server = await serve(CONTENT=["HANG", "250 ok"])
    channel = connect(server, connections=1)
    first, second = (asyncio.create_task(channel.send(make_message(), record)) for _ in range(2))
    await server.until(lambda: "CONTENT" in server.verbs)
    for task in (second, first):
        task.cancel()
    await asyncio.wait([first, second])
    assert await channel.send(make_message(), record) == Sent()


async def test_closing_says_goodbye(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    await asyncio.gather(*(channel.send(make_message(), record) for _ in range(3)))
    await channel.close()
    await server.until(lambda: server.open == 0)
    assert server.verbs.count("QUIT") == 3


async def test_closing_twice_or_unused_is_harmless(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    await channel.close()
    await channel.send(make_message(), record)
    await channel.close()
    await channel.close()
    await server.until(lambda: server.open == 0)
