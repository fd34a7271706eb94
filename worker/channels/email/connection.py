"""One connection to the mail server.

:func:`connect` does TCP, TLS, EHLO and AUTH as separate steps, because a failure is classified by its step.
"""

import ssl
from dataclasses import dataclass, field

from aiosmtplib import SMTP, SMTPException

from worker.channels import ChannelDown, Outcome
from worker.channels.email.outcomes import SmtpPhase, classify
from worker.settings.values import SmtpServer

#: Seconds to wait for the reply to QUIT; the connection is closed either way.
_QUIT_PATIENCE = 5.0


class Unconnected(Exception):  # noqa: N818 - it names the state
    """No connection could be opened; ``outcome`` is the outcome of the message."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


@dataclass(eq=False, slots=True)
class Connection:
    """An SMTP session that is ready for mail."""

    smtp: SMTP = field(repr=False)
    #: How many mails it was used for, sent or not.
    carried: int = 0
    #: Loop time of its last use.
    idle_since: float = 0.0
    #: Whether the next reply belongs to the next command. False after a cancelled or failed command: then it must be closed.
    in_step: bool = True

    @property
    def usable(self) -> bool:
        return self.in_step and self.smtp.is_connected

    async def quit(self) -> None:
        """Send QUIT if the connection is usable, and close it."""
        try:
            if self.usable:
                await self.smtp.execute_command(b"QUIT", timeout=_QUIT_PATIENCE)
        except (SMTPException, OSError):
            pass  # it is closed below
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once. Content that is still in the send buffer is dropped, so it cannot be delivered later."""
        _abort(self.smtp)


async def connect(
    server: SmtpServer, *, tls_context: ssl.SSLContext | None, hello_name: str, patience: float
) -> Connection:
    """A new session, with TLS verified and the user authenticated as ``server`` says. Raises :class:`Unconnected`.

    ``hello_name`` is the name in EHLO, ``patience`` the seconds that one step may take.
    """
    smtp = SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=server.tls == "implicit",
        start_tls=False,  # done below: "does not offer STARTTLS" and "the handshake fails" are different outcomes
        tls_context=tls_context,
        timeout=patience,
        local_hostname=hello_name,
    )
    phase = SmtpPhase.CONNECT
    try:
        await smtp.connect()
        phase = SmtpPhase.EHLO
        await smtp.ehlo()
        if server.tls == "starttls":
            phase = SmtpPhase.TLS
            _require(smtp.supports_extension("starttls"), "starttls_missing")
            await smtp.starttls()
            phase = SmtpPhase.EHLO  # again: extensions announced before TLS must be forgotten (RFC 3207, 4.2)
            await smtp.ehlo()
        if server.username is not None:
            phase = SmtpPhase.AUTH
            _require(bool(smtp.supported_auth_methods), "auth_missing")
            await smtp.login(server.username, server.password or "")
    except (SMTPException, OSError, ValueError) as error:  # ValueError: an invalid host name, or a Python without MD5
        _abort(smtp)
        raise Unconnected(classify(phase, error)) from None
    except BaseException:
        _abort(smtp)
        raise
    return Connection(smtp)


def _require(offered: bool, code: str) -> None:
    if not offered:
        raise Unconnected(ChannelDown(code=code))


def _abort(smtp: SMTP) -> None:
    transport = smtp.transport
    if transport is not None:
        transport.abort()  # type: ignore[attr-defined]  # every socket transport has it
    smtp.close()
