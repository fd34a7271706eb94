"""The SMTP server in front of the mailbox: aiosmtpd in the running event loop, with faults by rules."""

import asyncio
import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Any

from worker.errors import WorkerError

try:
    from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
except ImportError:
    raise WorkerError("sandbox: its mail server needs: pip install 'reconnection-worker[local]'") from None

from worker.sandbox.mail_faults import MailRule, SmtpPhase, first_strike
from worker.sandbox.mailbox import Mailbox
from worker.sandbox.scanning import Scanner

_BACKLOG = 1024
_OK = "250 OK"
#: The reply after which a server hangs up (RFC 5321, 3.8).
_CLOSING = "421"


class MailServer:
    """Accepts mail on one address; rules, latency and logins may be changed while it runs."""

    def __init__(self, mailbox: Mailbox, *, latency: float = 0.0, login: tuple[str, str] | None = None) -> None:
        self.mailbox = mailbox
        #: Seconds before each reply.
        self.latency = latency
        self.rules: Sequence[MailRule] = ()
        #: The one user name and password that AUTH accepts; ``None`` accepts any.
        self.login = login
        #: Opens the links of arriving mails before they are acknowledged.
        self.scanner = Scanner()
        self._sessions: set[_Session] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, since 0 asks for a free one. Raises ``OSError``."""
        # aiosmtpd logs addresses, and mistakes of clients at WARNING, which tests provoke on purpose.
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Session(self, self._sessions, loop), host, port, backlog=_BACKLOG
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._server is None:
            return
        self._server.close()
        for session in tuple(self._sessions):
            session.hang_up()
        await self._server.wait_closed()

    def authenticate(self, username: bytes, password: bytes) -> bool:
        """Whether this login is accepted."""
        if self.login is None:
            return True
        expected = ":".join(self.login).encode()
        return hmac.compare_digest(username + b":" + password, expected)


class _Session(SMTP):
    """One connection. aiosmtpd speaks the protocol; this adds the faults of the rules."""

    def __init__(self, server: MailServer, sessions: "set[_Session]", loop: asyncio.AbstractEventLoop) -> None:
        self._mail_server = server
        self._sessions = sessions
        #: The recipients during DATA. aiosmtpd replaces the envelope before it sends the last reply, so they are kept here.
        self._in_data: Sequence[str] = ()
        super().__init__(
            _Hooks(server),
            hostname="sandbox.example",
            ident="SMTP sandbox",
            enable_SMTPUTF8=True,
            auth_require_tls=False,
            authenticator=_authenticator(server),
            loop=loop,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._sessions.add(self)
        if self._handler_coroutine is not None:
            # asyncio prints exceptions that nobody retrieves. A reset by the client is normal, so it is retrieved and dropped.
            self._handler_coroutine.add_done_callback(lambda task: task.cancelled() or task.exception())

    def connection_lost(self, error: Exception | None) -> None:
        self._sessions.discard(self)
        super().connection_lost(error)

    def hang_up(self) -> None:
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()

    async def _drop(self) -> None:
        """Close the connection, then wait: the end of the connection cancels this task."""
        self.hang_up()
        await self.loop.create_future()

    def _strike(self, phase: SmtpPhase) -> Any:
        envelope, session = self.envelope, self.session
        return first_strike(
            self._mail_server.rules,
            phase,
            self._in_data or (envelope.rcpt_tos if envelope is not None else ()),
            logged_in=bool(session is not None and session.authenticated),
        )

    async def push(self, status: Any) -> None:
        server = self._mail_server
        last_line = status[3:4] != "-"
        if last_line and (server.latency or server.rules):
            slow = self._strike("reply")
            await asyncio.sleep(server.latency + (slow.seconds if slow is not None else 0.0))
        await super().push(status)
        if isinstance(status, str) and status.startswith(_CLOSING) and self.transport is not None:
            self._writer.close()
            await self.loop.create_future()

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802 - aiosmtpd's name
        fault = self._strike("auth")
        if fault is not None:
            await self.push(fault.reply)
        else:
            await super().smtp_AUTH(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        fault = self._strike("data") if self.envelope is not None and self.envelope.rcpt_tos else None
        if fault is not None:
            if fault.in_data:
                await self.push("354 End data with <CR><LF>.<CR><LF>")
                await self._reader.readuntil(b"\r\n")
            await self._drop()
        self._in_data = self.envelope.rcpt_tos if self.envelope is not None else ()
        try:
            await super().smtp_DATA(arg)
        finally:
            self._in_data = ()


class _Hooks:
    """aiosmtpd calls these at each SMTP command; they return the reply."""

    def __init__(self, server: MailServer) -> None:
        self._server = server

    async def handle_MAIL(  # noqa: N802
        self, _server: _Session, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        fault = first_strike(self._server.rules, "mail", logged_in=bool(session.authenticated))
        if fault is not None and fault.reply is not None:
            return fault.reply
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return _OK

    async def handle_RCPT(  # noqa: N802
        self, _server: _Session, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        fault = first_strike(self._server.rules, "rcpt", (address,))
        if fault is not None and fault.reply is not None:
            return fault.reply
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return _OK

    async def handle_DATA(self, server: _Session, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        fault = first_strike(self._server.rules, "end", envelope.rcpt_tos)
        if fault is not None and fault.reply is not None:
            return fault.reply
        try:
            mail = self._server.mailbox.keep(envelope.original_content or b"", envelope.rcpt_tos)
        except OSError:
            return "452 4.3.1 Insufficient system storage"
        await self._server.scanner.scan(envelope.original_content or b"", envelope.rcpt_tos)
        if fault is not None:
            await server._drop()  # noqa: SLF001
        return f"250 OK kept as {mail.number}"

    async def handle_exception(self, error: Exception) -> str:
        return f"451 4.3.0 The sandbox failed: {type(error).__name__}"


def _authenticator(mail_server: MailServer) -> Callable[..., AuthResult]:
    def check(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        accepted = isinstance(data, LoginPassword) and mail_server.authenticate(data.login, data.password)
        return AuthResult(success=accepted, handled=False)

    return check
