"""Delivery reports as real mail servers write them, and reports that an attacker made."""

import base64
import random
import time
from contextlib import suppress

import pytest

from worker.bounces import LIMIT, BounceOutcome, Unreadable, parse, spec_of, spellings, trace
from worker.channels.email.message import message_id, message_token

KEY = "5f0c5d7a7f0a4f6b8f0d1d2c3b4a5968"
OUR_ID = message_id(KEY, "ledgerly.example")
TOKEN = message_token(KEY)

ORIGINAL = f"""\
From: Ledgerly <no-reply@ledgerly.example>
To: customer@mail.example
Subject: Ledgerly no longer receives data from Alder Bank
Message-ID: {OUR_ID}
Content-Type: multipart/alternative; boundary="=_reconnect"

--=_reconnect
Content-Type: text/plain; charset=utf-8

Hello,
--=_reconnect--
"""

STATUS = """\
Reporting-MTA: dns; mx.mail.example

Final-Recipient: rfc822; customer@mail.example
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 <customer@mail.example>: User unknown
"""


def report(
    status=STATUS,
    original=ORIGINAL,
    *,
    original_type="message/rfc822",
    status_type="message/delivery-status",
    encoding="",
    headers="",
):
    """A delivery report as RFC 3462 lays it out."""
    parts = [
        "Content-Type: text/plain\n\nI'm sorry to have to inform you that your message could not be delivered.\n",
        f"Content-Type: {status_type}\n{encoding}\n{status}",
    ]
    if original is not None:
        parts.append(f"Content-Type: {original_type}\n\n{original}")
    body = "".join(f"--b\n{part}\n" for part in parts) + "--b--\n"
    head = (
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.mail.example\nTo: no-reply@ledgerly.example\n"
        f"Subject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n{headers}"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
    )
    return (head + body).replace("\n", "\r\n").encode()


def only(content):
    (found,) = parse(content)
    return found


def status_of(*lines):
    return "Reporting-MTA: dns; mx\n\n" + "\n".join(lines) + "\n"


def test_a_report_says_which_mail_failed_for_whom_and_why():
    found = only(report())
    assert found.outcome is BounceOutcome.BAD_ADDRESS
    assert found.code == "5.1.1"
    assert found.tokens == (TOKEN,)
    assert found.evidence == "5.1.1, user_unknown"
    assert found.sender == "no-reply@ledgerly.example"
    assert found.addresses == ("customer@mail.example",)


def test_a_report_shows_no_address():
    assert "customer" not in repr(only(report()))


@pytest.mark.parametrize(
    "original_type", ["message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"]
)
def test_the_original_may_come_whole_or_as_headers(original_type):
    assert only(report(original_type=original_type)).tokens == (TOKEN,)


def test_without_an_original_the_address_is_all_there_is():
    found = only(report(original=None))
    assert found.tokens == ()
    assert found.sender is None
    assert found.addresses == ("customer@mail.example",)


@pytest.mark.parametrize("original", ["", "\n\n", "garbage", "\x00\xff" * 50, "Subject: no id\n\nx"])
def test_an_original_that_cannot_be_read_is_none(original):
    found = only(report(original=original))
    assert found.tokens == ()
    assert found.addresses == ("customer@mail.example",)


def test_an_original_of_somebody_else_is_told_apart():
    found = only(report(original="Message-ID: <20261123.newsletter@app.example>\n\nx"))
    assert found.tokens == ()


def test_exchange_names_the_mail_in_the_reports_own_headers():
    assert only(report(original=None, headers=f"In-Reply-To: {OUR_ID}\n")).tokens == (TOKEN,)
    assert only(report(original=None, headers=f"References: <x@y.example>\n {OUR_ID}\n")).tokens == (TOKEN,)


def test_some_services_name_it_beside_the_status():
    status = STATUS.replace("\n\n", f"\nX-Original-Message-ID: {OUR_ID}\n\n", 1)
    assert only(report(status=status, original=None)).tokens == (TOKEN,)


def test_a_report_in_a_report_is_found():
    inner = report().decode()
    outer = (
        "From: somebody@app.example\nContent-Type: multipart/mixed; boundary=outer\n\n--outer\nContent-Type: text/plain\n\n"
        f"fyi\n--outer\nContent-Type: message/rfc822\n\n{inner}\n--outer--\n"
    )
    assert only(outer.encode()).tokens == (TOKEN,)


def test_a_report_that_is_nothing_but_its_status_is_read():
    content = ("From: x@y.example\nContent-Type: message/delivery-status\n\n" + STATUS).encode()
    assert only(content).outcome is BounceOutcome.BAD_ADDRESS


def test_a_report_that_was_cut_off_says_what_it_still_can():
    whole = report()
    found = only(whole[: whole.index(b"--b\r\nContent-Type: message/rfc822")])
    assert found.outcome is BounceOutcome.BAD_ADDRESS
    assert found.tokens == ()


@pytest.mark.parametrize("padding", [10_000, LIMIT])
def test_a_huge_original_does_not_matter(padding):
    assert only(report(original=ORIGINAL + "x" * 70 + "\n" * padding)).tokens == (TOKEN,)


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_an_encoded_status_is_decoded(encoding):
    status = base64.encodebytes(STATUS.encode()).decode() if encoding == "base64" else STATUS.replace("@", "=40")
    found = only(report(status=status, encoding=f"Content-Transfer-Encoding: {encoding}\n"))
    assert found.outcome is BounceOutcome.BAD_ADDRESS
    assert found.addresses == ("customer@mail.example",)


@pytest.mark.parametrize("written", ["utf-8; jürgen@müller.example", r"utf-8; j\x{FC}rgen@m\x{FC}ller.example"])
def test_a_report_in_utf8_names_addresses_outside_ascii(written):
    status = status_of(f"Final-Recipient: {written}", "Action: failed", "Status: 5.1.1")
    assert only(report(status=status, status_type="message/global-delivery-status")).addresses == (
        "jürgen@xn--mller-kva.example",
    )


@pytest.mark.parametrize(
    ("lines", "outcome", "code"),
    [
        (["Action: failed", "Status: 5.1.1"], BounceOutcome.BAD_ADDRESS, "5.1.1"),
        (["Action: FAILED", "Status: 5.1.10 (null MX)"], BounceOutcome.BAD_ADDRESS, "5.1.10"),
        (["Status: 5.1.3"], BounceOutcome.BAD_ADDRESS, "5.1.3"),
        # Exim's reports all say 5.0.0.
        (
            ["Action: failed", "Status: 5.0.0", "Diagnostic-Code: smtp; 550 5.1.1 no such user"],
            BounceOutcome.BAD_ADDRESS,
            "5.1.1",
        ),
        (
            ["Action: failed", "Status: 5.0.0", "Diagnostic-Code: smtp; 550-5.1.1. No."],
            BounceOutcome.BAD_ADDRESS,
            "5.1.1",
        ),
        (["Action: failed", "Diagnostic-Code: smtp; 550 5.1.1 no such user"], BounceOutcome.BAD_ADDRESS, "5.1.1"),
        (
            ["Action: failed", "Status: 5.0.0", "Diagnostic-Code: smtp; 550 no such user"],
            BounceOutcome.REFUSED,
            "5.0.0",
        ),
        (
            ["Action: failed", "Status: 5.0.0", "Diagnostic-Code: smtp; 550 from 5.1.1.9"],
            BounceOutcome.REFUSED,
            "5.0.0",
        ),
        (["Action: failed", "Status: 5.2.2"], BounceOutcome.MAILBOX_FULL, "5.2.2"),
        (["Action: failed", "Status: 5.2.1"], BounceOutcome.REFUSED, "5.2.1"),
        (["Action: failed", "Status: 5.7.1", "Diagnostic-Code: smtp; 550 5.1.1 x"], BounceOutcome.REFUSED, "5.1.1"),
        (["Action: failed", "Status: 5.1.8"], BounceOutcome.REFUSED, "5.1.8"),
        (["Action: failed", "Status: 4.4.7"], BounceOutcome.TRANSIENT, "4.4.7"),
        (["Action: failed", "Status: 4.4.7", "Diagnostic-Code: smtp; 550 5.1.1 x"], BounceOutcome.TRANSIENT, "4.4.7"),
        (["Action: delayed", "Status: 4.4.1"], BounceOutcome.TRANSIENT, "4.4.1"),
        (["Action: delayed", "Status: 5.1.1"], BounceOutcome.TRANSIENT, "5.1.1"),
        (["Action: failed"], BounceOutcome.TRANSIENT, ""),
        (["Action: relayed", "Status: 2.1.5"], BounceOutcome.DELIVERED, "2.1.5"),
        (["Action: delivered", "Status: 5.1.1"], BounceOutcome.DELIVERED, "5.1.1"),
        (["Status: 2.0.0"], BounceOutcome.DELIVERED, "2.0.0"),
        (["Action: failed", "Status: 15.1.1"], BounceOutcome.TRANSIENT, ""),
    ],
)
def test_only_a_code_that_speaks_of_the_address_blames_it(lines, outcome, code):
    found = only(report(status=status_of("Final-Recipient: rfc822; customer@mail.example", *lines)))
    assert (found.outcome, found.code) == (outcome, code)


def test_the_address_that_was_written_to_comes_before_the_one_it_was_forwarded_to():
    status = STATUS.replace("Action", "Original-Recipient: rfc822;Customer@Mail.example\nAction")
    status = status.replace(
        "Final-Recipient: rfc822; customer@mail.example", "Final-Recipient: rfc822; <other@elsewhere.example>"
    )
    assert only(report(status=status)).addresses == ("customer@mail.example", "other@elsewhere.example")


def test_without_a_recipient_the_originals_is_taken():
    assert only(report(status=status_of("Action: failed", "Status: 5.1.1"))).addresses == ("customer@mail.example",)


def test_one_report_may_speak_of_several_recipients():
    second = "\nFinal-Recipient: rfc822; second@mail.example\nAction: delayed\nStatus: 4.2.2\n"
    found = parse(report(status=STATUS + second))
    assert [(each.addresses, each.outcome) for each in found] == [
        (("customer@mail.example",), BounceOutcome.BAD_ADDRESS),
        (("second@mail.example",), BounceOutcome.TRANSIENT),
    ]


def test_a_status_without_its_first_block_is_read():
    assert only(report(status=STATUS.partition("\n\n")[2])).outcome is BounceOutcome.BAD_ADDRESS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"\x00" * 1000,
        b"From: customer@mail.example\nSubject: unsubscribe\n\nplease\n",
        b"Content-Type: multipart/report; report-type=delivery-status\n\nno boundary\n",
        b"Content-Type: multipart/report; boundary=b\n\n--b\n",
        b"Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: text/plain\n\n5.1.1 customer@mail.example\n--b--\n",
        b"Content-Type: text/plain\n\nContent-Type: message/delivery-status\nStatus: 5.1.1\n",
    ],
)
def test_what_is_no_report_reports_nothing(content):
    assert parse(content) == []


def readable(content):
    """The reports in it, or none if it raises ``Unreadable``. Any other exception fails the test."""
    with suppress(Unreadable):
        return parse(content)
    return []


def nested(depth):
    opening = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(depth))
    return (opening + report().decode()).encode()


@pytest.mark.parametrize(
    "content",
    [
        nested(5000),
        b"Content-Type: message/rfc822\n\n" * 20_000,
        report(original="Content-Type: multipart/digest; boundary=d\n\n" + "--d\n\n" * 100_000),
        report(status="\n\n".join(["Status: 5.1.1"] * 100_000)),
        report(status="Final-Recipient: rfc822; " + "a@" * 200_000),
        report(status="Final-Recipient: rfc822; " + '"\\' * 200_000 + "@x.example"),
        report(status="\n" * LIMIT),
        report(status="Status: " + "5.1." * 100_000),
        report(headers="References: " + "<" * 300_000 + "\n"),
        report(headers="".join(f"References: <{n:032x}@x>\n" for n in range(8000))),
        report(headers="X: y\n" * 80_000),
        b"Content-Type: multipart/report; boundary=" + b"b" * 400_000 + b"\n\n--b",
        b"a:\n" * 170_000,
        b"Content-Type: " + b"a/" * 250_000,
        b"Content-Type: text/plain; " + b"a*0=x; " * 70_000,
    ],
    ids=lambda content: f"{content[:20]!r}-{len(content)}",
)
@pytest.mark.alone
def test_a_mail_that_was_made_to_hurt_is_read_quickly_or_not_at_all(content):
    began = time.process_time()
    found = readable(content)
    assert time.process_time() - began < 2
    assert len(found) <= 201


def test_whatever_is_broken_in_a_report_it_is_read_or_unreadable():
    rng = random.Random(4)
    whole = report()
    for _ in range(1500):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 12)):
            place = rng.randrange(len(broken))
            broken[place : place + rng.randint(0, 40)] = rng.randbytes(rng.randint(0, 6))
        readable(bytes(broken))


def test_reports_are_traced_to_the_mails_they_speak_of():
    sent = [(1, "USR-1", "other key"), (2, "USR-2", KEY), (3, "USR-3", "never looked at")]
    rest = iter(sent)
    assert trace([only(report())], rest) == {TOKEN: (2, "USR-2")}
    assert next(rest) == sent[2]
    assert trace([only(report(original=None))], iter(sent)) == {}


def test_addresses_are_compared_in_one_form():
    assert spec_of("Jan@MÜLLER.example") == spec_of(" jan@xn--mller-kva.example ") == "jan@xn--mller-kva.example"
    assert spec_of("nobody") is None
    assert spellings("jan@xn--mller-kva.example") == {"jan@xn--mller-kva.example", "jan@müller.example"}
    assert spellings("jan@xn--a.example") == {"jan@xn--a.example"}
