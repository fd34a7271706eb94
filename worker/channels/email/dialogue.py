"""One mail over one connection: MAIL, RCPT, DATA and the text, driven one by one so that we know whether the text began to leave.

"Dispatch began" is put on record beside the DATA command, so that neither waits for the other. The text leaves once both are
there: the server's 354 and the record. A worker that dies before DATA leaves nothing on record.

Commands go out raw rather than through aiosmtplib's ``mail`` and ``rcpt``: those raise errors that hold the address.
"""

import asyncio

from aiosmtplib import SMTPException, SMTPResponse

from worker.channels import Dispatching, Failed, Outcome, Sent, Unknown
from worker.channels.email.connection import Connection
from worker.channels.email.message import Mail
from worker.channels.email.outcomes import COMPLETED, SmtpPhase, classify

#: Seconds that a server may take over a mail once it has it (RFC 5321, 4.5.3.2.6): giving up sooner makes duplicates.
DATA_PATIENCE = 600.0

#: "The service is not available and the connection is being closed" (RFC 5321, 3.8).
_CLOSING = 421

#: "Start mail input" (RFC 5321, 4.3.2).
_START_INPUT = 354

_LOST = (SMTPException, OSError)


class Stale(Exception):  # noqa: N818 - it names the state
    """The server had let go of a connection that was kept; nothing was said of the mail, so a fresh connection may take it."""


async def hand_over(connection: Connection, mail: Mail, dispatching: Dispatching, *, data_patience: float) -> Outcome:
    """Send ``mail``, and say what became of it; raises :class:`Stale`, and whatever ``dispatching`` raises.

    Whatever ends this early, a cancellation above all, leaves the connection out of step, and with that unusable.
    """
    smtp = connection.smtp
    if mail.recipient.needs_smtputf8 and not smtp.supports_extension("smtputf8"):
        return Failed(code="address_needs_smtputf8")  # a lack of the relay: another one could reach this address
    connection.in_step = False
    try:
        reply = await smtp.execute_command(b"MAIL", *_mail_arguments(mail))
    except _LOST as error:
        if connection.carried and isinstance(error, ConnectionError):
            raise Stale from None
        return classify(SmtpPhase.MAIL, error)
    if not _accepted(reply):
        return await _leave(connection, reply.code, classify(SmtpPhase.MAIL, reply))
    try:
        reply = await smtp.execute_command(b"RCPT", b"TO:<" + mail.recipient.spec.encode() + b">")
    except _LOST as error:
        return classify(SmtpPhase.RCPT, error)
    if not _accepted(reply):
        return await _leave(connection, reply.code, classify(SmtpPhase.RCPT, reply))
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
    """The word DATA, and "dispatch began" put on record beside it; ``None`` once the text may leave.

    aiosmtplib's ``data`` does not tell this half from the text, and only what is lost in the text is unknown. A refused DATA is on
    record as dispatched all the same; the outcome that is returned then is definitive, and corrects that.
    """
    reply, recorded = await asyncio.gather(
        connection.smtp.execute_command(b"DATA"), dispatching(), return_exceptions=True
    )
    if isinstance(recorded, BaseException):  # first: no text leaves that is not on record, and only closing ends a 354
        raise recorded
    if isinstance(reply, _LOST):
        return classify(SmtpPhase.START, reply)
    if isinstance(reply, BaseException):
        raise reply
    if reply.code != _START_INPUT:
        return await _leave(connection, reply.code, classify(SmtpPhase.START, reply))
    return None


async def _hand_over_content(connection: Connection, mail: Mail, patience: float) -> Outcome:
    """The text, and the server's word that it takes responsibility for it."""
    protocol = connection.smtp.protocol
    if protocol is None or not connection.smtp.is_connected:  # lost while the dispatch was put on record
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
    return outcome if isinstance(outcome, Unknown) else await _leave(connection, reply.code, outcome)


def _quoted(content: bytes) -> bytes:
    """The content with its end: a line that begins with a full stop gets a second one (RFC 5321, 4.5.2)."""
    ended = content if content.endswith(b"\r\n") else content + b"\r\n"
    return (b"\r\n" + ended).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


async def _leave(connection: Connection, code: int, outcome: Outcome) -> Outcome:
    """End a refused transaction with RSET, so that the connection can carry the next mail; after 421 it is closed instead."""
    if code != _CLOSING:
        try:
            reply = await connection.smtp.execute_command(b"RSET")
            connection.in_step = _accepted(reply)
        except _LOST:
            pass  # it stays out of step, and is closed
    return outcome


def _mail_arguments(mail: Mail) -> list[bytes]:
    sender = b"FROM:<" + mail.sender.spec.encode() + b">"
    return [sender, b"SMTPUTF8", b"BODY=8BITMIME"] if mail.recipient.needs_smtputf8 else [sender]


def _accepted(reply: SMTPResponse) -> bool:
    return reply.code in COMPLETED
