"""Classifies an answer of a mail server, as one pure function.

| at | what happened | outcome |
|---|---|---|
| any phase | 421, 454 | later, and the whole channel slows down |
| any phase | 530, 534, 535, 538; any 5xx to AUTH | the channel is down: our credentials are refused |
| connect, TLS, EHLO | any other refusal, error, timeout | later; every mail is affected, so the whole channel |
| MAIL | 4xx | later; all mails have one sender, so the whole channel |
| MAIL | 552, 555 or 5.6.7 | failed: the cause is this mail |
| MAIL | any other 5xx | the channel is down: our sender is refused |
| RCPT | 4xx | later |
| RCPT, DATA | 5xx whose enhanced code or text is about our sender, our login or our quota | the channel is down |
| RCPT | 5xx with 5.1.1, 5.1.2, 5.1.3, 5.1.6 or 5.1.10; 556 | the address is bad |
| RCPT | any other 5xx | failed |
| MAIL, RCPT, DATA before its 354 | timeout, disconnect, unreadable answer | later: nothing of the mail was sent |
| DATA | 4xx, 5xx | later, failed: the server has not taken the mail |
| DATA after its 354 | timeout, disconnect, unreadable answer | unknown: it may have been delivered |

Each outcome also has a :class:`~worker.channels.Refusal`, by which a failure streak finds equal refusals, and its
:class:`~worker.channels.Doubt`, whether the cause may be ours. Example: 554 5.7.1 to RCPT comes for every recipient if our relay
is on a block list, and for one recipient if only that recipient's server refuses us.

A plain 550 to RCPT is "failed", not "bad address". RFC 5321, 4.2.3 gives it for "mailbox not found, no access, or command
rejected for policy reasons", and a relay on a block list answers it for every recipient. An address is suppressed only for an
enhanced code of RFC 3463, or for 556 (RFC 7504: the domain takes no mail).

A code is the phase and the reply's number or a word of ours: ``rcpt_550``, ``connect_timeout``. The server's text is never part of
it, because servers repeat the address in it.
"""

import re
import socket
import ssl
from collections.abc import Sequence
from enum import StrEnum

from aiosmtplib import (
    SMTPConnectError,
    SMTPRecipientsRefused,
    SMTPResponse,
    SMTPResponseException,
)

from worker.channels import BadAddress, ChannelDown, Doubt, Failed, Outcome, Refusal, Sent, TryLater, Unknown


class SmtpPhase(StrEnum):
    """The last command of the dialogue; the first part of a code."""

    #: TCP, TLS from the first byte with ``smtps://``, and the greeting.
    CONNECT = "connect"
    EHLO = "ehlo"
    #: STARTTLS and its handshake.
    TLS = "tls"
    AUTH = "auth"
    #: Only ``reconnect doctor`` sends NOOP.
    NOOP = "noop"
    MAIL = "mail"
    RCPT = "rcpt"
    #: The DATA command. Until its 354 nothing of the content has left.
    START = "start"
    #: From the first byte of the content until the reply to it.
    DATA = "data"


#: Replies by their first digit (RFC 5321, 4.2.1).
COMPLETED, _REFUSED, _PERMANENT = range(200, 300), range(400, 600), range(500, 600)

#: Phases of one mail; the others belong to the connection, so every mail is affected.
_MAIL_PHASES = frozenset({SmtpPhase.MAIL, SmtpPhase.RCPT, SmtpPhase.START, SmtpPhase.DATA})
_RECIPIENT_PHASES = frozenset({SmtpPhase.RCPT, SmtpPhase.START, SmtpPhase.DATA})

_SLOW_DOWN = frozenset({421, 454})
#: RFC 4954, 6, and Sendmail's 530: authenticate first; too weak; wrong; encrypt first.
_NOT_AUTHENTICATED = frozenset({530, 534, 535, 538})
#: At MAIL: the mail is too large, or has a parameter (SMTPUTF8) that the server does not know (RFC 1870, RFC 5321).
_MAIL_IS_THE_CAUSE = frozenset({552, 555})
#: RFC 3463, 3.2, also in delivery reports: no such mailbox, no such system, bad syntax, moved away; RFC 7505: the domain has a null MX.
BAD_ADDRESS_CODES = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
#: Enhanced codes about the sender. RFC 3463, 3.2: the *sender's* mailbox or system. RFC 7372 and RFC 7505: DKIM, SPF,
#: reverse DNS, several of these, the sender's null MX. RFC 4954: credentials. Gmail: 5.4.5 is the day's quota. Exchange: 5.1.90 is the
#: day's quota, 5.2.252 and 5.7.60 are "send as", 5.7.57 an anonymous client.
_SENDER_CODES = frozenset({
    "5.1.7", "5.1.8", "5.1.90", "5.2.252", "5.4.5", "5.7.8", "5.7.9", "5.7.20", "5.7.21", "5.7.22", "5.7.23", "5.7.24", "5.7.25",
    "5.7.26", "5.7.27", "5.7.57", "5.7.60",
})  # fmt: skip
#: Exchange Online: banned senders, banned addresses, tenants over a threshold.
_EXCHANGE_SENDER_CODES = re.compile(r"5\.7\.[5-7]\d\d")
#: Servers that blame the sender only in the text: 5.7.1 "send as", SES's unverified sender, sending quotas (never mailbox quotas).
_SENDER_WORDS = re.compile(
    r"permissions? to send|send[ -]?as[ -]?denied|not (allowed|authori[sz]ed|permitted) to send"
    r"|sender address rejected: not owned|address(es)? (is|are) not verified"
    r"|\b(sending|submission|outgoing|outbound|daily \w+|hourly \w+|daily|hourly) (limit|quota)",
    re.IGNORECASE,
)
#: The middle number of an enhanced code (RFC 3463) that is about the recipient or the message: address, mailbox, content.
_MESSAGE_SUBJECTS = frozenset({"1", "2", "6"})
#: Too big: for this server (5.3.4), for this mailbox (552).
_TOO_BIG, _TOO_BIG_CODE = "5.3.4", 552
#: This mail needs internationalized addresses, and the server does not support them (RFC 6531, 3.5).
_NEEDS_UTF8 = "5.6.7"
_NO_MAIL_TAKEN = 556

#: Failures without a reply and their words. A subclass comes before its base class, because the first match counts.
_ERROR_WORDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((ssl.SSLCertVerificationError,), "certificate"),
    ((ssl.SSLError,), "handshake"),
    ((TimeoutError,), "timeout"),
    ((socket.gaierror, UnicodeError), "unresolved"),
    ((ConnectionRefusedError,), "refused"),
    ((ConnectionError,), "disconnected"),  # SMTPServerDisconnected is one
    ((OSError,), "failed"),
)

#: An enhanced code at the beginning of a line of the reply, perhaps quoted or marked; else the first one anywhere.
_ENHANCED = re.compile(r"^[\s'\"#(<-]*([45]\.\d{1,3}\.\d{1,3})(?![.\d])", re.MULTILINE)
_ENHANCED_WITHIN = re.compile(r"(?<![.\d])([45]\.\d{1,3}\.\d{1,3})(?!\.?\d)")

#: Phases in a :class:`~worker.channels.Refusal`; the others are ``at MAIL``, ``at RCPT`` and so on.
_AT = {
    SmtpPhase.CONNECT: "on connecting", SmtpPhase.TLS: "at STARTTLS", SmtpPhase.START: "at DATA", SmtpPhase.DATA: "after the mail's text",
}  # fmt: skip


def classify(phase: SmtpPhase, answer: SMTPResponse | Exception) -> Outcome:
    """The outcome of a message whose dialogue ended at ``phase``, with this reply or with this error."""
    if isinstance(answer, SMTPRecipientsRefused) and answer.recipients:  # this error has no code itself
        answer = answer.recipients[0]
    if phase is SmtpPhase.DATA and isinstance(answer, SMTPResponse) and answer.code in COMPLETED:
        return Sent()
    if isinstance(answer, SMTPResponse | SMTPResponseException) and answer.code in _REFUSED:
        return _refused(phase, answer.code, answer.message)
    return _unanswered(phase, _error_word(answer))


def _refused(phase: SmtpPhase, code: int, text: str) -> Outcome:
    word = f"{phase}_{code}"
    codes = _enhanced_codes(code, text)
    refusal = _refusal(phase, code, codes[:1])
    if code in _SLOW_DOWN:
        return TryLater(code=word, whole_channel=True, refusal=refusal)
    if code in _NOT_AUTHENTICATED or (phase is SmtpPhase.AUTH and code in _PERMANENT):
        return ChannelDown(code="auth_refused")
    if code not in _PERMANENT or phase not in _MAIL_PHASES:
        return TryLater(code=word, whole_channel=phase not in _RECIPIENT_PHASES, refusal=refusal)
    return _refused_permanently(phase, code, codes, text)


def _refused_permanently(phase: SmtpPhase, code: int, codes: Sequence[str], text: str) -> Outcome:
    word, refusal = f"{phase}_{code}", _refusal(phase, code, codes[:1])
    sender_refused = phase is SmtpPhase.MAIL and code not in _MAIL_IS_THE_CAUSE and _NEEDS_UTF8 not in codes
    if sender_refused or (phase is not SmtpPhase.MAIL and blames_sender(codes, text)):
        return ChannelDown(code=word)
    # If a reply has a second code that is not about the address, the two contradict and the address is not suppressed.
    if phase is SmtpPhase.RCPT and (code == _NO_MAIL_TAKEN or (codes and BAD_ADDRESS_CODES.issuperset(codes))):
        return BadAddress(code=word, refusal=refusal)
    return Failed(code=word, refusal=refusal)


def blames_sender(codes: Sequence[str], text: str) -> bool:
    """Whether a 5xx with these enhanced codes is about the sender, so that every mail is refused."""
    if any(code in _SENDER_CODES or _EXCHANGE_SENDER_CODES.fullmatch(code) for code in codes):
        return True
    return not any(_is_about_message(code) for code in codes) and _SENDER_WORDS.search(text) is not None


def _enhanced_codes(code: int, text: str) -> list[str]:
    """The reply's enhanced codes (RFC 2034), each once. One that contradicts the reply code (``550 4.7.1``) is left out."""
    enhanced_codes = _ENHANCED.findall(text) or _ENHANCED_WITHIN.findall(text)[:1]
    return [enhanced for enhanced in dict.fromkeys(enhanced_codes) if enhanced[0] == str(code)[0]]


def _is_about_message(enhanced: str) -> bool:
    return enhanced.split(".")[1] in _MESSAGE_SUBJECTS or enhanced == _TOO_BIG


def _refusal(phase: SmtpPhase, code: int, codes: Sequence[str]) -> Refusal:
    if phase not in _MAIL_PHASES:
        doubt = Doubt.UNREACHABLE
    elif code in {_TOO_BIG_CODE, _NO_MAIL_TAKEN} or any(_is_about_message(enhanced) for enhanced in codes):
        doubt = Doubt.MESSAGE
    else:
        doubt = Doubt.US
    return Refusal(" ".join([str(code), *codes, _at(phase)]), doubt)


def _at(phase: SmtpPhase) -> str:
    return _AT.get(phase) or f"at {phase.upper()}"


def _unanswered(phase: SmtpPhase, cause: str) -> Outcome:
    code = f"{phase}_{cause}"
    what = f"{cause} {_at(phase)}"
    if phase is SmtpPhase.DATA:
        return Unknown(code=code, refusal=Refusal(what, Doubt.MESSAGE))
    if phase in _MAIL_PHASES:
        return TryLater(code=code, refusal=Refusal(what, Doubt.US))
    return TryLater(code=code, whole_channel=True, refusal=Refusal(what, Doubt.UNREACHABLE))


def _error_word(answer: SMTPResponse | Exception) -> str:
    """A word for an error: ``timeout``, ``refused``; ``garbled`` for a reply that is not valid SMTP."""
    cause = (isinstance(answer, SMTPConnectError) and answer.__cause__) or answer
    for kinds, word in _ERROR_WORDS:
        if isinstance(cause, kinds):
            return word
    return "garbled"
