import socket
import ssl

import aiosmtplib
import pytest
from aiosmtplib import SMTPResponse

from worker.channels import BadAddress, ChannelDown, Doubt, Failed, Sent, TryLater, Unknown
from worker.channels.email.outcomes import Stage, judge

CONCERNS_ALL = [Stage.CONNECT, Stage.EHLO, Stage.TLS, Stage.AUTH, Stage.NOOP]
BEFORE_DATA = [stage for stage in Stage if stage is not Stage.DATA]


def reply(code, text=""):
    return SMTPResponse(code, text)


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_a_completed_data_is_sent():
    assert judge(Stage.DATA, reply(250, "2.0.0 Ok: queued as 1")) == Sent()


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("code", [421, 454])
def test_421_and_454_slow_the_whole_channel_at_any_stage(stage, code):
    assert judge(stage, reply(code, "4.7.0 later")) == TryLater(code=f"{stage}_{code}", whole_channel=True)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("code", [530, 534, 535, 538])
def test_refused_credentials_stop_the_channel_at_any_stage(stage, code):
    assert judge(stage, reply(code)) == ChannelDown(code="auth_refused")


@pytest.mark.parametrize("code", [500, 501, 503, 504, 550, 554])
def test_any_5xx_to_auth_stops_the_channel(code):
    assert judge(Stage.AUTH, aiosmtplib.SMTPAuthenticationError(code, "no")) == ChannelDown(code="auth_refused")


@pytest.mark.parametrize("stage", [Stage.CONNECT, Stage.EHLO, Stage.TLS, Stage.NOOP])
@pytest.mark.parametrize("code", [450, 500, 502, 521, 554])
def test_a_refusal_before_any_mail_is_retried_and_concerns_all(stage, code):
    assert judge(stage, reply(code)) == TryLater(code=f"{stage}_{code}", whole_channel=True)


@pytest.mark.parametrize("code", [450, 451, 452])
def test_a_recipient_refused_with_4xx_is_retried_alone(code):
    assert judge(Stage.RCPT, reply(code, "4.2.2 full")) == TryLater(code=f"rcpt_{code}")


def test_a_sender_refused_with_4xx_is_retried_by_all():
    assert judge(Stage.MAIL, reply(451)) == TryLater(code="mail_451", whole_channel=True)


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"])
@pytest.mark.parametrize("code", [550, 551, 553, 554])
def test_a_recipient_that_does_not_exist_is_a_bad_address(enhanced, code):
    assert judge(Stage.RCPT, reply(code, f"{enhanced} <x@y> unknown")) == BadAddress(code=f"rcpt_{code}")


def test_a_domain_that_takes_no_mail_is_a_bad_address():
    assert judge(Stage.RCPT, reply(556, "Domain does not accept mail")) == BadAddress(code="rcpt_556")


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
    assert judge(Stage.RCPT, reply(550, text)) == Failed(code="rcpt_550")


@pytest.mark.parametrize("enhanced", ["5.1.7", "5.1.8"])
def test_a_sender_refused_at_rcpt_stops_the_channel(enhanced):
    assert judge(Stage.RCPT, reply(550, f"{enhanced} sender address rejected")) == ChannelDown(code="rcpt_550")


@pytest.mark.parametrize("code", [501, 550, 553, 554])
def test_a_refused_sender_stops_the_channel(code):
    assert judge(Stage.MAIL, reply(code, "5.7.1 not yours")) == ChannelDown(code=f"mail_{code}")


@pytest.mark.parametrize("code", [552, 555])
def test_what_is_wrong_with_one_mail_does_not_stop_the_channel(code):
    assert judge(Stage.MAIL, reply(code)) == Failed(code=f"mail_{code}")


@pytest.mark.parametrize("code", [450, 451, 452])
def test_a_4xx_after_data_is_retried(code):
    assert judge(Stage.DATA, aiosmtplib.SMTPDataError(code, "later")) == TryLater(code=f"data_{code}")


@pytest.mark.parametrize("code", [550, 552, 554])
def test_a_5xx_after_data_fails(code):
    assert judge(Stage.DATA, aiosmtplib.SMTPDataError(code, "5.1.1 spam")) == Failed(code=f"data_{code}")


LACKS = [
    (aiosmtplib.SMTPReadTimeoutError("x"), "timeout"),
    (TimeoutError(), "timeout"),
    (aiosmtplib.SMTPServerDisconnected("x"), "disconnected"),
    (ConnectionResetError(), "disconnected"),
    (aiosmtplib.SMTPResponseException(-1, "Malformed SMTP response line: x@y"), "garbled"),
    (OSError("no route"), "failed"),
]


@pytest.mark.parametrize(("error", "word"), LACKS)
def test_an_answer_lost_during_data_is_unknown(error, word):
    assert judge(Stage.DATA, error) == Unknown(code=f"data_{word}")


@pytest.mark.parametrize("code", [250, 251, 354])
def test_a_reply_out_of_turn_during_data_is_unknown(code):
    assert judge(Stage.DATA, aiosmtplib.SMTPDataError(code, "ok")) == Unknown(code="data_garbled")


@pytest.mark.parametrize("stage", BEFORE_DATA)
@pytest.mark.parametrize(("error", "word"), LACKS)
def test_an_answer_lost_before_data_is_retried(stage, error, word):
    assert judge(stage, error) == TryLater(code=f"{stage}_{word}", whole_channel=stage in CONCERNS_ALL)


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
    assert judge(Stage.CONNECT, error) == TryLater(code=f"connect_{word}", whole_channel=True)


def test_recipients_refused_is_judged_by_its_recipient():
    refused = aiosmtplib.SMTPRecipientsRefused([aiosmtplib.SMTPRecipientRefused(550, "5.1.1 unknown", "x@y")])
    assert judge(Stage.RCPT, refused) == BadAddress(code="rcpt_550")
    assert judge(Stage.RCPT, aiosmtplib.SMTPRecipientsRefused([])) == TryLater(code="rcpt_garbled")


@pytest.mark.parametrize("stage", Stage)
def test_no_outcome_repeats_what_the_server_said(stage):
    for code in (-1, 0, 199, 250, 354, 421, 450, 535, 550, 600, 999):
        assert "customer" not in repr(judge(stage, reply(code, "5.1.1 <customer@example.com> unknown")))


#: What relays say of whoever sends, at whatever stage.
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


@pytest.mark.parametrize("stage", [Stage.RCPT, Stage.START, Stage.DATA])
@pytest.mark.parametrize(("code", "text"), OF_THE_SENDER)
def test_a_refusal_of_the_sender_stops_the_channel_wherever_it_comes(stage, code, text):
    assert judge(stage, reply(code, text)) == ChannelDown(code=f"{stage}_{code}")


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
    outcome = judge(Stage.DATA, reply(code, text))
    assert outcome == Failed(code=f"data_{code}")
    assert outcome.refusal.doubt is Doubt.MESSAGE


@pytest.mark.parametrize(
    ("stage", "code", "text", "what", "doubt"),
    [
        (Stage.RCPT, 554, "5.7.1 Service unavailable; blocked using zen", "554 5.7.1 at RCPT", Doubt.US),
        (Stage.DATA, 554, "see https://example.com\n5.7.1 blocked", "554 5.7.1 after the mail's text", Doubt.US),
        (Stage.RCPT, 550, "no", "550 at RCPT", Doubt.US),
        (Stage.RCPT, 451, "4.7.1 greylisted", "451 4.7.1 at RCPT", Doubt.US),
        (Stage.RCPT, 452, "4.2.2 full", "452 4.2.2 at RCPT", Doubt.MESSAGE),
        (Stage.RCPT, 550, "5.1.1 unknown", "550 5.1.1 at RCPT", Doubt.MESSAGE),
        (Stage.CONNECT, 554, "5.7.1 you are on a list", "554 5.7.1 on connecting", Doubt.UNREACHABLE),
        (Stage.MAIL, 421, "4.7.0 slow down", "421 4.7.0 at MAIL", Doubt.US),
    ],
)
def test_a_refusal_says_what_others_are_alike_and_who_may_be_meant(stage, code, text, what, doubt):
    refusal = judge(stage, reply(code, text)).refusal
    assert (refusal.what, refusal.doubt) == (what, doubt)


def test_where_two_codes_contradict_each_other_no_address_is_to_blame():
    assert judge(Stage.RCPT, reply(550, "5.1.1 unknown\n5.7.1 or blocked")) == Failed(code="rcpt_550")


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.DATA])
def test_a_server_that_takes_no_international_address_refuses_this_mail_alone(stage):
    assert judge(stage, reply(553, "5.6.7 not here")) == Failed(code=f"{stage}_553")
