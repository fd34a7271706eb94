import socket
import ssl

import aiosmtplib
import pytest
from aiosmtplib import SMTPResponse

from worker.channels import BadAddress, ChannelDown, Doubt, Failed, Sent, TryLater, Unknown
from worker.channels.email.outcomes import SmtpPhase, classify

CONCERNS_ALL = [SmtpPhase.CONNECT, SmtpPhase.EHLO, SmtpPhase.TLS, SmtpPhase.AUTH, SmtpPhase.NOOP]
BEFORE_DATA = [phase for phase in SmtpPhase if phase is not SmtpPhase.DATA]


def reply(code, text=""):
    return SMTPResponse(code, text)


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_a_completed_data_is_sent():
    assert classify(SmtpPhase.DATA, reply(250, "2.0.0 Ok: queued as 1")) == Sent()


@pytest.mark.parametrize("phase", SmtpPhase)
@pytest.mark.parametrize("code", [421, 454])
def test_421_and_454_slow_the_whole_channel_at_any_stage(phase, code):
    assert classify(phase, reply(code, "4.7.0 later")) == TryLater(code=f"{phase}_{code}", whole_channel=True)


@pytest.mark.parametrize("phase", SmtpPhase)
@pytest.mark.parametrize("code", [530, 534, 535, 538])
def test_refused_credentials_stop_the_channel_at_any_stage(phase, code):
    assert classify(phase, reply(code)) == ChannelDown(code="auth_refused")


@pytest.mark.parametrize("code", [500, 501, 503, 504, 550, 554])
def test_any_5xx_to_auth_stops_the_channel(code):
    assert classify(SmtpPhase.AUTH, aiosmtplib.SMTPAuthenticationError(code, "no")) == ChannelDown(code="auth_refused")


@pytest.mark.parametrize("phase", [SmtpPhase.CONNECT, SmtpPhase.EHLO, SmtpPhase.TLS, SmtpPhase.NOOP])
@pytest.mark.parametrize("code", [450, 500, 502, 521, 554])
def test_a_refusal_before_any_mail_is_retried_and_concerns_all(phase, code):
    assert classify(phase, reply(code)) == TryLater(code=f"{phase}_{code}", whole_channel=True)


@pytest.mark.parametrize("code", [450, 451, 452])
def test_a_recipient_refused_with_4xx_is_retried_alone(code):
    assert classify(SmtpPhase.RCPT, reply(code, "4.2.2 full")) == TryLater(code=f"rcpt_{code}")


def test_a_sender_refused_with_4xx_is_retried_by_all():
    assert classify(SmtpPhase.MAIL, reply(451)) == TryLater(code="mail_451", whole_channel=True)


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"])
@pytest.mark.parametrize("code", [550, 551, 553, 554])
def test_a_recipient_that_does_not_exist_is_a_bad_address(enhanced, code):
    assert classify(SmtpPhase.RCPT, reply(code, f"{enhanced} <x@y> unknown")) == BadAddress(code=f"rcpt_{code}")


def test_a_domain_that_takes_no_mail_is_a_bad_address():
    assert classify(SmtpPhase.RCPT, reply(556, "Domain does not accept mail")) == BadAddress(code="rcpt_556")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no such user here",
        "5.7.1 relay denied",
        "5.2.1 disabled",
        "5.2.2 full",
        "5.1.0 address",
        "5.1.11 x",
        "4.1.1 x",
    ],
)
def test_any_other_5xx_to_the_recipient_fails_without_blaming_the_address(text):
    assert classify(SmtpPhase.RCPT, reply(550, text)) == Failed(code="rcpt_550")


@pytest.mark.parametrize("enhanced", ["5.1.7", "5.1.8"])
def test_a_sender_refused_at_rcpt_stops_the_channel(enhanced):
    assert classify(SmtpPhase.RCPT, reply(550, f"{enhanced} sender address rejected")) == ChannelDown(code="rcpt_550")


@pytest.mark.parametrize("code", [501, 550, 553, 554])
def test_a_refused_sender_stops_the_channel(code):
    assert classify(SmtpPhase.MAIL, reply(code, "5.7.1 not yours")) == ChannelDown(code=f"mail_{code}")


@pytest.mark.parametrize("code", [552, 555])
def test_what_is_wrong_with_one_mail_does_not_stop_the_channel(code):
    assert classify(SmtpPhase.MAIL, reply(code)) == Failed(code=f"mail_{code}")


@pytest.mark.parametrize("code", [450, 451, 452])
def test_a_4xx_after_data_is_retried(code):
    assert classify(SmtpPhase.DATA, aiosmtplib.SMTPDataError(code, "later")) == TryLater(code=f"data_{code}")


@pytest.mark.parametrize("code", [550, 552, 554])
def test_a_5xx_after_data_fails(code):
    assert classify(SmtpPhase.DATA, aiosmtplib.SMTPDataError(code, "5.1.1 spam")) == Failed(code=f"data_{code}")


ERRORS = [
    (aiosmtplib.SMTPReadTimeoutError("x"), "timeout"),
    (TimeoutError(), "timeout"),
    (aiosmtplib.SMTPServerDisconnected("x"), "disconnected"),
    (ConnectionResetError(), "disconnected"),
    (aiosmtplib.SMTPResponseException(-1, "Malformed SMTP response line: x@y"), "garbled"),
    (OSError("no route"), "failed"),
]


@pytest.mark.parametrize(("error", "word"), ERRORS)
def test_an_answer_lost_during_data_is_unknown(error, word):
    assert classify(SmtpPhase.DATA, error) == Unknown(code=f"data_{word}")


@pytest.mark.parametrize("code", [250, 251, 354])
def test_a_reply_out_of_turn_during_data_is_unknown(code):
    assert classify(SmtpPhase.DATA, aiosmtplib.SMTPDataError(code, "ok")) == Unknown(code="data_garbled")


@pytest.mark.parametrize("phase", BEFORE_DATA)
@pytest.mark.parametrize(("error", "word"), ERRORS)
def test_an_answer_lost_before_data_is_retried(phase, error, word):
    assert classify(phase, error) == TryLater(code=f"{phase}_{word}", whole_channel=phase in CONCERNS_ALL)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (caused(aiosmtplib.SMTPConnectError("x"), ConnectionRefusedError()), "refused"),
        (caused(aiosmtplib.SMTPConnectError("x"), socket.gaierror()), "unresolved"),
        (caused(aiosmtplib.SMTPConnectError("x"), ssl.SSLCertVerificationError()), "certificate"),
        (caused(aiosmtplib.SMTPConnectError("x"), ssl.SSLError()), "handshake"),
        (caused(aiosmtplib.SMTPConnectError("x"), OSError()), "failed"),
        (caused(aiosmtplib.SMTPConnectError("x"), aiosmtplib.SMTPServerDisconnected("x")), "disconnected"),
        (caused(aiosmtplib.SMTPConnectTimeoutError("x"), TimeoutError()), "timeout"),
        (aiosmtplib.SMTPConnectTimeoutError("x"), "timeout"),
        (UnicodeError("label too long"), "unresolved"),
    ],
)
def test_what_went_wrong_while_connecting_is_named(error, word):
    assert classify(SmtpPhase.CONNECT, error) == TryLater(code=f"connect_{word}", whole_channel=True)


def test_recipients_refused_is_judged_by_its_recipient():
    refused = aiosmtplib.SMTPRecipientsRefused([aiosmtplib.SMTPRecipientRefused(550, "5.1.1 unknown", "x@y")])
    assert classify(SmtpPhase.RCPT, refused) == BadAddress(code="rcpt_550")
    assert classify(SmtpPhase.RCPT, aiosmtplib.SMTPRecipientsRefused([])) == TryLater(code="rcpt_garbled")


@pytest.mark.parametrize("phase", SmtpPhase)
def test_no_outcome_repeats_what_the_server_said(phase):
    for code in (-1, 0, 199, 250, 354, 421, 450, 535, 550, 600, 999):
        assert "customer" not in repr(classify(phase, reply(code, "5.1.1 <customer@example.com> unknown")))


#: Answers of relays that refuse the sender, in any phase of the dialogue.
OF_THE_SENDER = [
    (550, "5.1.8 Access denied, bad outbound sender AS(42004)"),
    (550, "5.7.60 SMTP; Client does not have permissions to send as this sender"),
    (550, "5.7.1 Client does not have permissions to send as this sender"),
    (554, "5.2.252 SendAsDenied; no-reply@ledgerly.example not allowed to send as"),
    (550, "5.7.26 Your email has been blocked because the sender is unauthenticated."),
    (550, "5.4.5 Daily user sending limit exceeded. For more information on Gmail\n5.4.5 sending limits go to"),
    (550, "Requested action not taken\n5.7.57 Client not authenticated to send mail"),
    (550, "5.7.705 Access denied, tenant has exceeded threshold"),
    (554, "Message rejected: Email address is not verified."),
    (553, "5.7.1 <no-reply@ledgerly.example>: Sender address rejected: not owned by user app"),
]


@pytest.mark.parametrize("phase", [SmtpPhase.RCPT, SmtpPhase.START, SmtpPhase.DATA])
@pytest.mark.parametrize(("code", "text"), OF_THE_SENDER)
def test_a_refusal_of_the_sender_stops_the_channel_wherever_it_comes(phase, code, text):
    assert classify(phase, reply(code, text)) == ChannelDown(code=f"{phase}_{code}")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (552, "5.2.2 Mailbox daily quota exceeded"),
        (550, "5.2.1 The user you are trying to contact has a sending limit"),
        (554, "5.6.0 Content refused"),
        (550, "5.6.7 Non-ASCII address"),
        (552, "5.3.4 Too big"),
    ],
)
def test_what_speaks_of_the_recipient_or_the_message_stops_nothing(code, text):
    outcome = classify(SmtpPhase.DATA, reply(code, text))
    assert outcome == Failed(code=f"data_{code}")
    assert outcome.refusal.doubt is Doubt.MESSAGE


@pytest.mark.parametrize(
    ("phase", "code", "text", "what", "doubt"),
    [
        (SmtpPhase.RCPT, 554, "5.7.1 Service unavailable; blocked using zen", "554 5.7.1 at RCPT", Doubt.US),
        (SmtpPhase.DATA, 554, "see https://example.com\n5.7.1 blocked", "554 5.7.1 after the mail's text", Doubt.US),
        (SmtpPhase.RCPT, 550, "no", "550 at RCPT", Doubt.US),
        (SmtpPhase.RCPT, 451, "4.7.1 greylisted", "451 4.7.1 at RCPT", Doubt.US),
        (SmtpPhase.RCPT, 452, "4.2.2 full", "452 4.2.2 at RCPT", Doubt.MESSAGE),
        (SmtpPhase.RCPT, 550, "5.1.1 unknown", "550 5.1.1 at RCPT", Doubt.MESSAGE),
        (SmtpPhase.CONNECT, 554, "5.7.1 you are on a list", "554 5.7.1 on connecting", Doubt.UNREACHABLE),
        (SmtpPhase.MAIL, 421, "4.7.0 slow down", "421 4.7.0 at MAIL", Doubt.US),
    ],
)
def test_a_refusal_says_what_others_are_alike_and_who_may_be_meant(phase, code, text, what, doubt):
    refusal = classify(phase, reply(code, text)).refusal
    assert (refusal.what, refusal.doubt) == (what, doubt)


def test_where_two_codes_contradict_each_other_no_address_is_to_blame():
    assert classify(SmtpPhase.RCPT, reply(550, "5.1.1 unknown\n5.7.1 or blocked")) == Failed(code="rcpt_550")


@pytest.mark.parametrize("phase", [SmtpPhase.MAIL, SmtpPhase.DATA])
def test_a_server_that_takes_no_international_address_refuses_this_mail_alone(phase):
    assert classify(phase, reply(553, "5.6.7 not here")) == Failed(code=f"{phase}_553")
