import asyncio
import email
import email.policy
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from worker.channels import BadAddress, DurableLink, Failed, Sent


def parse(envelope):
    return email.message_from_bytes(envelope.content, policy=email.policy.SMTPUTF8)


async def test_a_message_arrives_as_it_was_written(mailbox, connect, make_message, record):
    message = make_message()
    assert await connect(mailbox).send(message, record) == Sent()
    (envelope,) = mailbox.envelopes
    assert envelope.mail_from == "no-reply@acme.example"
    assert envelope.rcpt_tos == [message.address]
    mail = parse(envelope)
    assert mail["To"] == message.address
    assert mail["List-Unsubscribe"] == "<mailto:no-reply@acme.example?subject=unsubscribe>"
    assert message.banks[0].link in mail.get_body(("plain",)).get_content().splitlines()
    assert f'href="{message.banks[0].link.replace("&", "&amp;")}"' in mail.get_body(("html",)).get_content()
    assert record.times == 1


async def test_the_bytes_that_are_built_are_the_bytes_that_arrive(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    built = []
    build = channel._composer.build
    channel._composer.build = lambda message: built.append(build(message)) or built[-1]
    await channel.send(make_message(), record)
    assert server.mails == [built[0].content]


@pytest.mark.parametrize("length", [1, 64])
async def test_the_unsubscribe_headers_leave_unfolded_however_long_they_are(
    serve, connect, make_message, record, length
):
    server = await serve()
    host = ".".join(["a" * 60] * 3)[: 8 + length * 2]
    base = f"https://{host}.example/with/a/path"
    link = DurableLink(page=f"{base}/r/token", unsubscribe=f"{base}/u/token", until=datetime(2026, 12, 1, tzinfo=UTC))
    reply_to = "+" * length + "@" + ".".join(["b" * 60] * 2) + ".example"
    channel = connect(server, email_reply_to=reply_to)
    assert await channel.send(make_message(link=link), record) == Sent()
    lines = server.mails[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    by_mail = reply_to.replace("+", "%2B")
    assert lines.count(f"List-Unsubscribe: <{base}/u/token>, <mailto:{by_mail}?subject=unsubscribe>".encode()) == 1
    assert lines.count(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click") == 1
    assert max(map(len, lines)) < 998


async def test_a_line_that_begins_with_a_dot_keeps_it(mailbox, connect, make_message, record):
    link = "https://bank.example/?x=" + "." * 400
    bank = replace(make_message().banks[0], name=".", link=link)
    assert await connect(mailbox).send(make_message(banks=(bank, bank)), record) == Sent()
    text = parse(mailbox.envelopes[0]).get_body(("plain",)).get_content()
    assert text.splitlines().count(link) == 2
    assert ". (nothing new since 3 March 2026)" in text.splitlines()


async def test_a_domain_outside_ascii_is_written_to(mailbox, connect, make_message, record):
    assert await connect(mailbox).send(make_message(address="jan@müller.example"), record) == Sent()
    assert mailbox.envelopes[0].rcpt_tos == ["jan@xn--mller-kva.example"]


async def test_a_local_part_outside_ascii_is_written_to_where_the_server_can(mailbox, connect, make_message, record):
    assert await connect(mailbox).send(make_message(address="jürgen@müller.example"), record) == Sent()
    assert mailbox.envelopes[0].rcpt_tos == ["jürgen@xn--mller-kva.example"]
    assert mailbox.envelopes[0].smtp_utf8
    assert parse(mailbox.envelopes[0])["To"] == "jürgen@xn--mller-kva.example"


#: Answers of relays that cannot take an international address, and the code with which that message alone fails.
FAILURES = {
    "it does not offer it": ({"EHLO": "250 here"}, "address_needs_smtputf8"),
    "it refuses MAIL": ({"MAIL": "553 5.6.7 not supported"}, "mail_553"),
    "it refuses MAIL in other words": ({"MAIL": "501 5.5.4 what is SMTPUTF8?"}, "mail_501"),
    "it refuses RCPT": ({"RCPT": "553 5.6.7 not supported"}, "rcpt_553"),
    "it calls the syntax bad": ({"RCPT": "553 5.1.3 bad recipient address syntax"}, "rcpt_553"),
    "it refuses the mail": ({"CONTENT": "554 5.6.7 next hop does not support it"}, "data_554"),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_a_lack_of_the_relay_is_no_fault_of_the_address_and_stops_nothing(
    serve, connect, make_message, record, what
):
    replies, code = FAILURES[what]
    server = await serve(**replies)
    channel = connect(server)
    assert await channel.send(make_message(address="jürgen@müller.example"), record) == Failed(code=code)
    server.replies.update(MAIL="250 ok", RCPT="250 ok", CONTENT="250 ok")
    assert await channel.send(make_message(), record) == Sent()
    assert server.connections == 1


async def test_a_domain_that_our_tables_do_not_know_is_no_bad_address(serve, connect, make_message, record):
    server = await serve()
    outcome = await connect(server).send(make_message(address="ann@i❤.example"), record)
    assert outcome == Failed(code="address_not_encodable")
    assert server.connections == 0


async def test_what_cannot_be_sent_opens_no_connection(serve, connect, make_message, record):
    server = await serve()
    channel = connect(server)
    assert await channel.send(make_message(address="a@x.example, b@y.example"), record) == BadAddress(
        code="address_syntax"
    )
    assert await channel.send(make_message(banks=()), record) == Failed(code="no_banks")
    assert server.connections == record.times == 0


async def test_many_messages_arrive_once_each(mailbox, connect, make_message, record):
    channel = connect(mailbox, connections=5)
    addresses = [f"customer{n}@example.com" for n in range(150)]
    outcomes = await asyncio.gather(*(channel.send(make_message(address=a, key=a), record) for a in addresses))
    assert outcomes == [Sent()] * 150
    assert sorted(envelope.rcpt_tos[0] for envelope in mailbox.envelopes) == sorted(addresses)
    assert all(parse(envelope)["To"] == envelope.rcpt_tos[0] for envelope in mailbox.envelopes)
    assert record.times == 150
