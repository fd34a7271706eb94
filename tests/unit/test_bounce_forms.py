"""The forms in which mail servers report that they could not deliver, and the outcome of each."""

import pytest

from worker.bounces import BounceOutcome, Kind, parse, read
from worker.bounces.evidence import classify
from worker.channels.email.message import ID_HEADER, message_token

BAD, FULL, LATER, REFUSED = (
    BounceOutcome.BAD_ADDRESS,
    BounceOutcome.MAILBOX_FULL,
    BounceOutcome.TRANSIENT,
    BounceOutcome.REFUSED,
)
TOKEN = message_token("a key")
JO = "jo@mail.example"


@pytest.mark.parametrize(
    ("status", "answer", "outcome"),
    [
        # The reporting server's Status is a guess; the receiving server's own code wins.
        ("5.1.1", "550 5.7.1 Service unavailable; client host blocked using a blocklist", REFUSED),
        ("5.1.1", "550 5.7.1 Access denied", REFUSED),
        ("5.1.1", "550-5.7.26 Unauthenticated email is not accepted 550 5.7.26 see the documents", REFUSED),
        ("5.1.1", "552 5.2.2 over quota", FULL),
        ("5.1.1", "452 4.2.2 over quota", LATER),
        ("5.1.0", "5.1.0 - Unknown address error 550-'5.7.1 <jo@mail.example>... Access denied' (delivery attempts: 0)", REFUSED),
        ("5.1.0", "5.1.0 - Unknown address error 550-'5.2.2 <jo@mail.example>... Mailbox Full' (delivery attempts: 0)", FULL),
        ("5.1.0", "5.1.0 - Unknown address error 550-'5.1.1 <jo@mail.example>... User unknown' (delivery attempts: 0)", BAD),
        ("5.0.0", "550-5.1.1 The email account that you tried to reach does not exist. 550 5.1.1 See the help page.", BAD),
        ("5.0.0", "550 #5.1.1 bad address", BAD),
        ("5.5.0", "550 5.1.1 <jo@mail.example>: Recipient address rejected: User unknown", BAD),
        # If the two contradict each other, the address is not blamed.
        ("5.7.1", "550 5.1.1 User unknown", REFUSED),
        ("5.2.2", "550 5.1.1 User unknown", REFUSED),
        ("4.4.7", "550 5.1.1 User unknown", LATER),
        ("5.1.1", "550 5.1.1 <jo@mail.example>: Mailbox full", FULL),
        ("5.1.1", "550 5.1.1 has sent to too many recipients this hour", REFUSED),
        ("5.1.1", "550 5.1.1 Refused due to recipient preferences", REFUSED),
        ("5.1.1", "554 5.1.1 Sender address rejected: Domain not found", REFUSED),
        # If the answer has no code, Status is a guess too: the words must agree with it.
        ("5.1.1", "550 Requested action not taken: mailbox unavailable", REFUSED),
        ("5.1.1", "550 Access denied", REFUSED),
        ("5.1.1", "550 spam detected", REFUSED),
        ("5.1.1", "550 unknown user", BAD),
        ("5.1.1", "", BAD),
        ("5.1.1", 'unknown user: "jo"', BAD),
        ("5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", BAD),
        ("5.4.1", "550 5.4.1 [jo@mail.example]: Recipient address rejected: Access denied [X.prod.protection.outlook.com]", BAD),
        # Words alone count only in an answer to RCPT, or about a domain that does not exist.
        ("5.0.0", "550 User unknown (in reply to RCPT TO command)", BAD),
        ("5.0.0", "550 User unknown (in reply to end of DATA command)", REFUSED),
        ("5.0.0", "550 User unknown", REFUSED),
        ("5.2.1", "550 5.2.1 User unknown (in reply to RCPT TO command)", BAD),
        ("5.2.1", "550 5.2.1 This account is disabled", REFUSED),
        ("5.4.4", "Host or domain name not found. Name service error for name=mail.example type=A: Host not found", BAD),
        ("5.4.4", "Host or domain name not found. Name service error for name=mail.example type=MX: Host not found, try again", REFUSED),
        ("4.4.3", "Host or domain name not found. Name service error for name=mail.example type=MX: Host not found, try again", LATER),
        # Words inside an address or a link are ignored.
        ("5.1.1", "550 5.1.1 <spam@blocklist.example>: User unknown, see https://policy.example/quota", BAD),
    ],
)  # fmt: skip
def test_the_receiving_servers_word_wins_and_a_contradiction_blames_nobody(
    status: str, answer: str, outcome: BounceOutcome
) -> None:
    assert classify(status=status, answer=answer).outcome is outcome


def bounce(text: str, *, sender: str = "MAILER-DAEMON@mx.example", headers: str = "") -> bytes:
    return f"Return-Path: <>\nFrom: {sender}\nTo: app@app.example\n{headers}\n{text}".encode()


COPY = f"From: app@app.example\nTo: {JO}\nMessage-ID: <replaced@relay.example>\n{ID_HEADER}: {TOKEN}\n\nHello,\n"
FORMS = {
    "qmail": (
        "Hi. This is the qmail-send program at mx.example.\nI'm afraid I wasn't able to deliver your message to the following "
        f"addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n<{JO}>:\n{{}}\n\n"
        f"--- Below this line is a copy of the message.\n\nReturn-Path: <app@app.example>\n{COPY}"
    ),
    "exim": (
        "This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one "
        f"or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  {JO}\n    {{}}\n\n"
        f"------ This is a copy of the message, including all the headers. ------\n\nReturn-path: <app@app.example>\n{COPY}"
    ),
    "gmail": (
        f"Delivery to the following recipient failed permanently:\n\n     {JO}\n\nTechnical details of permanent failure:\n"
        f"Google tried to deliver your message, but it was rejected by the server. The error was:\n{{}}\n\n----- Original message -----\n\n{COPY}"
    ),
    "exchange": (
        f"Delivery has failed to these recipients or groups:\n\n{JO}<mailto:{JO}>\n\nDiagnostic information for administrators:\n\n"
        f"Generating server: x.prod.example\n\n{JO}\nRemote Server returned '{{}}'\n\nOriginal message headers:\n\n{COPY}"
    ),
    "yahoo": (
        f"Sorry, we were unable to deliver your message to the following address.\n\n<{JO}>:\n{{}}\n\n"
        f"--- Below this line is a copy of the message.\n\n{COPY}"
    ),
    "opensmtpd": (
        "    Hi!\n\n    This is the MAILER-DAEMON, please DO NOT REPLY to this email.\n\n    An error has occurred while attempting to "
        f"deliver a message for\n    the following list of recipients:\n\n{JO}: {{}}\n\n    Below is a copy of the original message:\n\n{COPY}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (f"550 5.1.1 <{JO}>: Recipient address rejected: User unknown", BAD),
        (f"550 5.2.2 <{JO}>: mailbox full", FULL),
        ("550 5.7.1 blocked by policy", REFUSED),
        ("451 4.3.0 try again later", LATER),
    ],
)
def test_a_report_in_prose_is_read_and_traced_by_the_copy_in_it(form: str, answer: str, outcome: BounceOutcome) -> None:
    [found] = parse(bounce(FORMS[form].format(answer)))
    assert (found.outcome, found.addresses, TOKEN in found.tokens) == (outcome, (JO,), True)


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        ("qmail", "192.0.2.1 does not like recipient.\nRemote host said: 550 no such user\nGiving up on 192.0.2.1."),
        ("qmail", "Sorry, I couldn't find any host named mail.example. (#5.1.2)"),
        (
            "exim",
            f"SMTP error from remote mail server after RCPT TO:<{JO}>:\n    host mx [192.0.2.1]: 550 No such user here",
        ),
        ("exim", "Unrouteable address"),
        ("exchange", "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found"),
        ("yahoo", "Remote host said:\n550 Unknown user\n[RCPT_TO]"),
        ("opensmtpd", "Domain does not exist"),
    ],
)
def test_each_server_has_its_own_words_for_a_dead_address(form: str, answer: str) -> None:
    [found] = parse(bounce(FORMS[form].format(answer)))
    assert found.outcome is BAD
    assert found.evidence


def test_a_mail_to_several_says_what_became_of_each() -> None:
    text = FORMS["exim"].format("550 5.1.1 no such user\n  al@mail.example\n    550 5.2.2 mailbox full")
    assert [(each.addresses, each.outcome) for each in parse(bounce(text))] == [
        ((JO,), BAD),
        (("al@mail.example",), FULL),
    ]


def test_what_returns_in_a_report_is_not_taken_for_another_report() -> None:
    status = "Reporting-MTA: dns; mx\n\nFinal-Recipient: rfc822; {}\nAction: failed\nStatus: {}\n"
    inner = f'Content-Type: multipart/report; boundary="i"\n\n--i\nContent-Type: message/delivery-status\n\n{status.format(JO, "5.1.1")}\n--i--\n'
    outer = (
        f'From: MAILER-DAEMON@mx\nContent-Type: multipart/report; boundary="o"\n\n--o\nContent-Type: message/delivery-status\n\n'
        f"{status.format('al@mail.example', '5.7.1')}\n--o\nContent-Type: message/rfc822\n\n{inner}\n--o--\n"
    )
    assert [each.outcome for each in parse(outer.encode())] == [REFUSED]


def complaint(kind: str = "abuse") -> bytes:
    return (
        'From: fbl@provider.example\nTo: app@app.example\nContent-Type: multipart/report; report-type=feedback-report; boundary="b"\n\n'
        "--b\nContent-Type: text/plain\n\nThis is an email abuse report.\n--b\nContent-Type: message/feedback-report\n\n"
        f"Feedback-Type: {kind}\nUser-Agent: x/1\nVersion: 1\nOriginal-Rcpt-To: <{JO}>\n\n"
        f"--b\nContent-Type: message/rfc822\n\n{COPY}\n--b--\n"
    ).encode()


def test_a_complaint_is_one_and_no_bounce() -> None:
    [found] = parse(complaint())
    assert (found.outcome, found.tokens, found.addresses) == (BounceOutcome.COMPLAINT, (TOKEN,), (JO,))
    assert parse(complaint("not-spam")) == parse(complaint("auth-failure")) == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (bounce("I am away until Monday.", sender="jo@mail.example", headers="Auto-Submitted: auto-replied\n"), Kind.AUTO_REPLY),
        (bounce("I am away.", sender="jo@mail.example", headers="Subject: Out of office: your message\n"), Kind.AUTO_REPLY),
        (bounce("I am away.", sender="jo@mail.example", headers="Precedence: auto_reply\n"), Kind.AUTO_REPLY),
        (b"From: jo@mail.example\nSubject: Re: your bank\n\n550 5.1.1 is what I was told\n", Kind.OTHER),
        (bounce("Something went amiss. We are sorry.", headers="Subject: Undelivered\n"), Kind.NOT_UNDERSTOOD),
    ],
)  # fmt: skip
def test_what_is_no_report_is_counted_as_what_it_is(content: bytes, kind: Kind) -> None:
    found = read(content)
    assert (found.kind, found.reports) == (kind, ())


def test_a_delay_is_no_failure() -> None:
    text = f"This is a warning message only.\nYOU DO NOT NEED TO RESEND YOUR MESSAGE.\n\n<{JO}>: 550 5.1.1 User unknown\nWill keep trying until message is 5 days old\n"
    assert [each.outcome for each in parse(bounce(text))] == [LATER]


@pytest.mark.parametrize("name", ["To", "Delivered-To", "X-Original-To"])
def test_the_envelopes_sender_traces_a_report_that_returns_nothing(name: str) -> None:
    content = bounce(f"<{JO}>: 550 5.1.1 User unknown\n", headers=f"{name}: <bounces+{TOKEN}@app.example>\n")
    [found] = parse(content)
    assert found.tokens == (TOKEN,)
