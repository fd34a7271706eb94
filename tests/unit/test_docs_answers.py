"""The tables of ``docs/answers.md`` agree with what the code does with each answer of MX, mail servers and push services."""

import json
import re
from ssl import SSLCertVerificationError
from typing import Any

import pytest
from aiosmtplib import SMTPResponse

from tests.pages import DOCS, ROOT, tables
from worker.channels import BadAddress, ChannelDown, Failed, Sent, TryLater, Unknown
from worker.channels.email.outcomes import SmtpPhase
from worker.channels.email.outcomes import classify as judge_mail
from worker.channels.push.apns.classifying import classify as judge_apns
from worker.channels.push.fcm.classifying import classify as judge_fcm
from worker.channels.push.http import HttpResponse
from worker.channels.push.webpush.classifying import classify as judge_webpush
from worker.mx.answers import Gone, RefusedClient, RejectedRequest, RetryLater, Unsupported
from worker.mx.classifying import classify_window
from worker.policy.states import NotificationState, ReconnectionState

_BECOMES = {
    Unsupported: "`unsupported`",
    Gone: "`gone`",
    RefusedClient: "`due`, as it was",
    RejectedRequest: "`quarantined`",
    RetryLater: "`due`",
}


def test_the_table_of_mx_answers_says_what_the_code_makes_of_each() -> None:
    rows = [row for row in tables(DOCS["answers"].section("MX")) if not row[0].startswith("`200`")]
    told: dict[str, str] = {}
    for answer, consequence_of, *_ in rows:
        no_oauth = "cannot use OAuth" in answer
        for status in re.findall(r"`(\d{3})`", answer):
            body = b'{"error": {"message": "Member cannot use OAuth"}}' if no_oauth else b"{}"
            classified = classify_window(int(status), {}, body, asked="MBR-1", host_is_allowed=lambda _: True)
            assert consequence_of.startswith(_BECOMES[type(classified)]), answer
            told[status] = consequence_of
    assert {"400", "401", "403", "404", "405", "406", "409", "422", "429", "500", "502", "503", "504"} <= set(told)


def test_every_state_that_an_answer_leads_to_exists() -> None:
    known = {str(state) for state in (*ReconnectionState, *NotificationState)}
    for heading, column in (("MX", 1), ("Mail server", 1), ("Mail server", 2)):
        for row in tables(DOCS["answers"].section(heading)):
            named = re.findall(r"`([a-z_]+)`", row[column])
            assert set(named) & known or "wait" in row[column], row
            assert set(named) <= known | {"resend", "status"}, row


_PUSH = {
    "`sent`": (Sent, {}),
    "`suppressed`, the device is disabled": (BadAddress, {}),
    "`pending`, this message waits; an attempt is counted": (TryLater, {"whole_channel": False}),
    "`pending`, the channel waits as long as the service asks, else a minute": (TryLater, {"whole_channel": True}),
    "`failed`": (Failed, {}),
    "`pending`, the channel stops: `Paused delivery:fcm` and so on": (ChannelDown, {}),
}
_ANY = {"2xx": 201, "3xx": 302, "4xx": 418, "5xx": 500}


def _fcm(code: str) -> bytes:
    return json.dumps({"error": {"details": [{"errorCode": code}]}}).encode()


def _apns(reason: str) -> bytes:
    return json.dumps({"reason": reason}).encode()


@pytest.mark.parametrize(
    ("column", "classify", "body"),
    [(1, judge_fcm, _fcm), (2, judge_apns, _apns), (3, judge_webpush, _apns)],
    ids=["fcm", "apns", "webpush"],
)
def test_the_table_of_push_answers_says_what_the_code_makes_of_each(column: int, classify: Any, body: Any) -> None:
    seen = 0
    for row in tables(DOCS["answers"].section("Push services")):
        outcome, having = _PUSH[row[0]]
        plain = re.sub(
            r"(`INVALID_ARGUMENT`|401 or 403) that [^,;]*", "", row[column]
        )  # they depend on more than the code
        told = re.findall(r"`([A-Za-z_]+)`", plain)
        replies = [HttpResponse(status=400, headers={}, body=body(word)) for word in told]
        numbers = re.findall(r"\b(\d{3})\b", plain) + re.findall(r"\b([2-5]xx)\b", plain)
        replies += [HttpResponse(status=_ANY.get(number) or int(number), headers={}, body=b"") for number in numbers]
        for reply in replies:
            seen += 1
            found = classify(reply)
            assert isinstance(found, outcome), (row[0], reply)
            assert all(getattr(found, name) == value for name, value in having.items()), (row[0], reply)
    assert seen > 8


#: An answer in the table of mail servers, and the phase of the dialogue in which it comes. Other rows depend on earlier answers too.
_MAIL: list[tuple[SmtpPhase, SMTPResponse | Exception, str, type]] = [
    (SmtpPhase.DATA, SMTPResponse(250, "OK"), "250 after the mail", Sent),
    (SmtpPhase.CONNECT, SMTPResponse(421, "later"), "421 or 454", TryLater),
    (SmtpPhase.RCPT, SMTPResponse(454, "later"), "421 or 454", TryLater),
    (SmtpPhase.MAIL, SMTPResponse(450, "later"), "421 or 454", TryLater),
    (SmtpPhase.CONNECT, ConnectionRefusedError(), "nothing, or a refusal, before the first MAIL", TryLater),
    (SmtpPhase.TLS, SSLCertVerificationError(), "nothing, or a refusal, before the first MAIL", TryLater),
    (SmtpPhase.RCPT, SMTPResponse(450, "later"), "4xx to RCPT or DATA", TryLater),
    (SmtpPhase.START, TimeoutError(), "4xx to RCPT or DATA", TryLater),
    *((SmtpPhase.RCPT, SMTPResponse(550, f"5.1.{n} no"), "5xx to RCPT with", BadAddress) for n in (1, 2, 3, 6, 10)),
    (SmtpPhase.RCPT, SMTPResponse(556, "no"), "5xx to RCPT with", BadAddress),
    (SmtpPhase.RCPT, SMTPResponse(550, "no"), "another 5xx", Failed),
    (SmtpPhase.DATA, SMTPResponse(554, "spam"), "another 5xx", Failed),
    (SmtpPhase.MAIL, SMTPResponse(552, "too large"), "another 5xx", Failed),
    *((SmtpPhase.MAIL, SMTPResponse(code, "no"), "login, sender", ChannelDown) for code in (530, 534, 535, 538, 550)),
    (SmtpPhase.AUTH, SMTPResponse(550, "no"), "login, sender", ChannelDown),
    *(
        (SmtpPhase.DATA, SMTPResponse(550, f"5.{n} no"), "login, sender", ChannelDown)
        for n in ("1.7", "1.8", "4.5", "7.26", "7.60")
    ),
    (SmtpPhase.DATA, TimeoutError(), "nothing, after the mail's text", Unknown),
]
_MAIL_BECOMES = {
    Sent: "`sent`",
    TryLater: "`pending`",
    BadAddress: "`suppressed`",
    Failed: "`failed`",
    ChannelDown: "`pending`; the channel stops",
    Unknown: "`unknown`",
}


@pytest.mark.parametrize(("phase", "answer", "row", "outcome"), _MAIL)
def test_the_table_of_mail_answers_says_what_the_code_makes_of_each(
    phase: SmtpPhase, answer: Any, row: str, outcome: type
) -> None:
    (told,) = [cells for cells in tables(DOCS["answers"].section("Mail server")) if cells[0].startswith(row)]
    assert isinstance(judge_mail(phase, answer), outcome)
    assert told[1].startswith(_MAIL_BECOMES[outcome])
    if isinstance(answer, SMTPResponse) and (code := re.match(r"5\.\d+\.\d+", answer.message)):
        assert code[0] in told[0]


def test_every_reason_to_refuse_a_uri_has_its_row() -> None:
    source = (ROOT / "worker" / "mx" / "uris.py").read_text(encoding="utf-8")
    rows = tables(DOCS["answers"].section("URIs that are refused"))
    told = [code for row in rows for code in re.findall(r"`(uri_\w+)`", row[0])]
    assert sorted(told) == sorted(set(re.findall(r'"(uri_\w+)"', source)))
