"""One connection to the mail server, from the first packet to the last.

:func:`connect` goes through TCP, TLS, EHLO and AUTH step by step, so that a failure is classified by the step at which it happened.
"""

import ssl
from dataclasses import dataclass, field

from aiosmtplib import SMTP, SMTPException

from worker.channels import ChannelDown, Outcome
from worker.channels.email.outcomes import SmtpPhase, classify
from worker.settings.values import SmtpServer

#: How long a server may take to say goodbye, in seconds; the connection is closed either way.
_QUIT_PATIENCE = 5.0


class Unconnected(Exception):  # noqa: N818 - it names the state
    """No connection could be had; ``outcome`` is what that means for the message."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


@dataclass(eq=False, slots=True)
class Connection:
    """An SMTP session that is ready for mail, and what its pool needs to know of it."""

    smtp: SMTP = field(repr=False)
    #: Mails that it has been used for, whatever became of them.
    carried: int = 0
    #: Loop time since when nobody has used it.
    idle_since: float = 0.0
    #: Whether the next reply would answer the next command. Not so after a cancelled or broken one: then it must be closed.
    in_step: bool = True

    @property
    def usable(self) -> bool:
        return self.in_step and self.smtp.is_connected

    async def quit(self) -> None:
        """Say goodbye if that is possible, and close."""
        try:
            if self.usable:
                await self.smtp.execute_command(b"QUIT", timeout=_QUIT_PATIENCE)
        except (SMTPException, OSError):
            pass  # it is being closed anyway
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once: what is still in the send buffer is dropped rather than sent after all."""
        _abort(self.smtp)


async def connect(
    server: SmtpServer, *, tls_context: ssl.SSLContext | None, hello_name: str, patience: float
) -> Connection:
    """A new session, its TLS verified and its user authenticated as ``server`` wants it; raises :class:`Unconnected`.

    ``hello_name`` is what EHLO says, ``patience`` the seconds that one step may take.
    """
    smtp = SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=server.tls == "implicit",
        start_tls=False,  # below, where a server that does not offer it is told from one that fails at it
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
            _demand(smtp.supports_extension("starttls"), "starttls_missing")
            await smtp.starttls()
            phase = SmtpPhase.EHLO  # again: what was said in the clear does not count (RFC 3207, 4.2)
            await smtp.ehlo()
        if server.username is not None:
            phase = SmtpPhase.AUTH
            _demand(bool(smtp.supported_auth_methods), "auth_missing")
            await smtp.login(server.username, server.password or "")
    except (SMTPException, OSError, ValueError) as error:  # ValueError: a host name that DNS cannot have, or no MD5
        _abort(smtp)
        raise Unconnected(classify(phase, error)) from None
    except BaseException:
        _abort(smtp)
        raise
    return Connection(smtp)


def _demand(offered: bool, otherwise: str) -> None:
    if not offered:
        raise Unconnected(ChannelDown(code=otherwise))


def _abort(smtp: SMTP) -> None:
    transport = smtp.transport
    if transport is not None:
        transport.abort()  # type: ignore[attr-defined]  # every transport that has a socket can
    smtp.close()
