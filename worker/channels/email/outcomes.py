"""What an answer of a mail server means for the message, as one pure function.

| at | what happened | outcome |
|---|---|---|
| any stage | 421, 454 | later, and the whole channel slows down |
| any stage | 530, 534, 535, 538; any 5xx to AUTH | the channel is down: our credentials are refused |
| connect, TLS, EHLO | any other refusal, error, timeout | later; it concerns everyone, so the whole channel |
| MAIL | 4xx | later; all mails have one sender, so the whole channel |
| MAIL | 5xx | the channel is down: our sender is refused; 552 and 555 speak of this mail alone: failed |
| RCPT | 4xx | later |
| RCPT | 5xx with 5.1.1, 5.1.2, 5.1.3, 5.1.6 or 5.1.10; 556 | the address is bad |
| RCPT | 5xx with 5.1.7 or 5.1.8 | the channel is down: our sender is refused, the server only waited for RCPT to say so |
| RCPT | any other 5xx | failed |
| MAIL, RCPT, DATA before its 354 | timeout, disconnect, unreadable answer | later: nothing of the mail was sent |
| DATA | 4xx, 5xx | later, failed: the server has not taken the mail |
| DATA after its 354 | timeout, disconnect, unreadable answer | unknown: it may have been delivered |

A plain 550 to RCPT is "failed", not "bad address": RFC 5321, 4.2.3 gives it for "mailbox not found, no access, or command
rejected for policy reasons", and a relay on a block list answers it for every recipient. Suppressing an address needs a server
that says so: an enhanced code of RFC 3463, or 556 (RFC 7504: the domain takes no mail).

Codes are made of the stage and the reply's number or a word; a server's text, which likes to repeat the address, never leaves.
"""

import re
import socket
import ssl
from enum import StrEnum

from aiosmtplib import (
    SMTPConnectError,
    SMTPRecipientsRefused,
    SMTPResponse,
    SMTPResponseException,
)

from worker.channels import BadAddress, ChannelDown, Failed, Outcome, Sent, TryLater, Unknown


class Stage(StrEnum):
    """How far the dialogue had come; the first part of a code."""

    #: TCP, TLS from the first byte where ``smtps://`` asks for it, and the greeting.
    CONNECT = "connect"
    EHLO = "ehlo"
    #: STARTTLS and its handshake.
    TLS = "tls"
    AUTH = "auth"
    #: Only ``reconnect doctor`` says NOOP.
    NOOP = "noop"
    MAIL = "mail"
    RCPT = "rcpt"
    #: The word DATA was written; until its 354 nothing of the mail has left.
    START = "start"
    #: From the first byte of the content until the reply that follows it.
    DATA = "data"


#: Replies by their first digit (RFC 5321, 4.2.1).
COMPLETED, _REFUSED, _FOR_GOOD = range(200, 300), range(400, 600), range(500, 600)

_OF_A_MAIL = frozenset({Stage.MAIL, Stage.RCPT, Stage.START, Stage.DATA})
_OF_ONE_RECIPIENT = frozenset({Stage.RCPT, Stage.START, Stage.DATA})

_SLOW_DOWN = frozenset({421, 454})
#: RFC 4954, 6, and Sendmail's 530: authenticate first; too weak; wrong; encrypt first.
_NOT_AUTHENTICATED = frozenset({530, 534, 535, 538})
#: At MAIL: too large for this server, or a parameter (SMTPUTF8) that it does not know (RFC 1870, RFC 5321).
_OF_THIS_MAIL = frozenset({552, 555})
#: RFC 3463, 3.2, also in delivery reports: no such mailbox, no such system, bad syntax, moved away; RFC 7505: the domain has a null MX.
BAD_ADDRESS_CODES = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
#: RFC 3463, 3.2: the *sender's* mailbox or system.
_BAD_SENDER = frozenset({"5.1.7", "5.1.8"})
_NO_MAIL_TAKEN = 556

#: What went wrong below SMTP, the narrower class before the wider one.
_LACKS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((ssl.SSLCertVerificationError,), "certificate"),
    ((ssl.SSLError,), "handshake"),
    ((TimeoutError,), "timeout"),
    ((socket.gaierror, UnicodeError), "unresolved"),
    ((ConnectionRefusedError,), "refused"),
    ((ConnectionError,), "disconnected"),  # SMTPServerDisconnected is one
    ((OSError,), "failed"),
)

_ENHANCED = re.compile(r"5\.\d{1,3}\.\d{1,3}(?!\d)")


def judge(stage: Stage, answer: SMTPResponse | Exception) -> Outcome:
    """The outcome of a message whose dialogue ended at ``stage`` with this reply, or this lack of one."""
    if isinstance(answer, SMTPRecipientsRefused) and answer.recipients:  # the one SMTP error without a code of its own
        answer = answer.recipients[0]
    if stage is Stage.DATA and isinstance(answer, SMTPResponse) and answer.code in COMPLETED:
        return Sent()
    if isinstance(answer, SMTPResponse | SMTPResponseException) and answer.code in _REFUSED:
        return _refused(stage, answer.code, answer.message)
    return _unanswered(stage, _lack(answer))


def _refused(stage: Stage, code: int, text: str) -> Outcome:
    word = f"{stage}_{code}"
    if code in _SLOW_DOWN:
        return TryLater(code=word, whole_channel=True)
    if code in _NOT_AUTHENTICATED or (stage is Stage.AUTH and code in _FOR_GOOD):
        return ChannelDown(code="auth_refused")
    if code not in _FOR_GOOD or stage not in _OF_A_MAIL:
        return TryLater(code=word, whole_channel=stage not in _OF_ONE_RECIPIENT)
    return _refused_for_good(stage, code, text)


def _refused_for_good(stage: Stage, code: int, text: str) -> Outcome:
    word = f"{stage}_{code}"
    if stage is Stage.MAIL and code not in _OF_THIS_MAIL:
        return ChannelDown(code=word)
    if stage is Stage.RCPT:
        found = _ENHANCED.match(text)
        enhanced = found[0] if found else None
        if enhanced in BAD_ADDRESS_CODES or code == _NO_MAIL_TAKEN:
            return BadAddress(code=word)
        if enhanced in _BAD_SENDER:
            return ChannelDown(code=word)
    return Failed(code=word)


def _unanswered(stage: Stage, lack: str) -> Outcome:
    code = f"{stage}_{lack}"
    if stage is Stage.DATA:
        return Unknown(code=code)
    return TryLater(code=code, whole_channel=stage not in _OF_A_MAIL)


def _lack(answer: SMTPResponse | Exception) -> str:
    """What there was instead of a reply that means something."""
    cause = (isinstance(answer, SMTPConnectError) and answer.__cause__) or answer
    for kinds, word in _LACKS:
        if isinstance(cause, kinds):
            return word
    return "garbled"
