"""One mail over one connection: MAIL, RCPT, DATA, content. They are separate steps, so we know whether the content began to leave.

The DATA command and the commit of "dispatch began" run at the same time. The content is sent when both are done: the server
answered 354, and the commit succeeded. If the worker dies before DATA, no dispatch is recorded and the mail is retried.

aiosmtplib's ``mail`` and ``rcpt`` are not used, because their errors contain the address.
"""

import asyncio

from aiosmtplib import SMTPException, SMTPResponse

from worker.channels import Dispatching, Failed, Outcome, Sent, Unknown
from worker.channels.email.connection import Connection
from worker.channels.email.message import Mail
from worker.channels.email.outcomes import COMPLETED, SmtpPhase, classify

#: Seconds to wait for the reply to a mail's content (RFC 5321, 4.5.3.2.6). A shorter wait makes duplicates.
DATA_PATIENCE = 600.0

#: "The service is not available and the connection is being closed" (RFC 5321, 3.8).
_CLOSING = 421

#: "Start mail input" (RFC 5321, 4.3.2).
_START_INPUT = 354

_LOST = (SMTPException, OSError)


class Stale(Exception):  # noqa: N818 - it names the state
    """The server had closed an idle connection. Nothing of the mail was sent, so another connection may send it."""


async def hand_over(connection: Connection, mail: Mail, dispatching: Dispatching, *, data_patience: float) -> Outcome:
    """Send ``mail`` and return the outcome. Raises :class:`Stale`, and whatever ``dispatching`` raises.

    If it ends early, for example by cancellation, the connection stays unusable (``in_step`` is false).
    """
    smtp = connection.smtp
    if mail.recipient.needs_smtputf8 and not smtp.supports_extension("smtputf8"):
        return Failed(code="address_needs_smtputf8")  # not BadAddress: another relay could reach it
    connection.in_step = False
    try:
        reply = await smtp.execute_command(b"MAIL", *_mail_arguments(mail))
    except _LOST as error:
        if connection.carried and isinstance(error, ConnectionError):
            raise Stale from None
        return classify(SmtpPhase.MAIL, error)
    if not _accepted(reply):
        return await _reset(connection, reply.code, classify(SmtpPhase.MAIL, reply))
    try:
        reply = await smtp.execute_command(b"RCPT", b"TO:<" + mail.recipient.spec.encode() + b">")
    except _LOST as error:
        return classify(SmtpPhase.RCPT, error)
    if not _accepted(reply):
        return await _reset(connection, reply.code, classify(SmtpPhase.RCPT, reply))
    refused = await _start_content(connection, dispatching)
    return refused if refused is not None else await _hand_over_content(connection, mail, data_patience)


async def probe(connection: Connection) -> Outcome:
    """Whether the server still answers; ``Sent`` with the code ``ready`` if it does."""
    try:
        reply = await connection.smtp.execute_command(b"NOOP")
    except _LOST as error:
        return classify(SmtpPhase.NOOP, error)
    return Sent(code="ready") if _accepted(reply) else classify(SmtpPhase.NOOP, reply)


async def _start_content(connection: Connection, dispatching: Dispatching) -> Outcome | None:
    """Send DATA and commit "dispatch began" at the same time; ``None`` if the content may be sent.

    aiosmtplib's ``data`` sends command and content in one call. They are separate here because only a connection that is lost
    during the content makes the outcome unknown. If DATA is refused, the dispatch is committed
    nevertheless; the returned outcome then replaces it.
    """
    reply, recorded = await asyncio.gather(
        connection.smtp.execute_command(b"DATA"), dispatching(), return_exceptions=True
    )
    if isinstance(
        recorded, BaseException
    ):  # checked first: without the commit no content may leave, whatever the server said
        raise recorded
    if isinstance(reply, _LOST):
        return classify(SmtpPhase.START, reply)
    if isinstance(reply, BaseException):
        raise reply
    if reply.code != _START_INPUT:
        return await _reset(connection, reply.code, classify(SmtpPhase.START, reply))
    return None


async def _hand_over_content(connection: Connection, mail: Mail, patience: float) -> Outcome:
    """Send the content and classify the reply to it."""
    protocol = connection.smtp.protocol
    if protocol is None or not connection.smtp.is_connected:  # lost during the commit of the dispatch
        return classify(SmtpPhase.START, ConnectionResetError())
    try:
        protocol.write(_quoted(mail.content))
        reply = await protocol.read_response(timeout=patience)
    except _LOST as error:
        return classify(SmtpPhase.DATA, error)
    outcome = classify(SmtpPhase.DATA, reply)
    if isinstance(outcome, Sent):
        connection.in_step = True
        return outcome
    return outcome if isinstance(outcome, Unknown) else await _reset(connection, reply.code, outcome)


def _quoted(content: bytes) -> bytes:
    """The content dot-stuffed and with its final ``.`` line (RFC 5321, 4.5.2)."""
    ended = content if content.endswith(b"\r\n") else content + b"\r\n"
    return (b"\r\n" + ended).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


async def _reset(connection: Connection, code: int, outcome: Outcome) -> Outcome:
    """End a refused transaction with RSET, so that the connection can carry the next mail. After 421 it is closed instead."""
    if code != _CLOSING:
        try:
            reply = await connection.smtp.execute_command(b"RSET")
            connection.in_step = _accepted(reply)
        except _LOST:
            pass  # ``in_step`` stays false, so the pool closes it
    return outcome


def _mail_arguments(mail: Mail) -> list[bytes]:
    sender = b"FROM:<" + mail.sender.spec.encode() + b">"
    return [sender, b"SMTPUTF8", b"BODY=8BITMIME"] if mail.recipient.needs_smtputf8 else [sender]


def _accepted(reply: SMTPResponse) -> bool:
    return reply.code in COMPLETED
