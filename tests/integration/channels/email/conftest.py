"""Mail servers to send to: a real one (aiosmtpd), and one whose answers the test sets."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from aiosmtpd import smtp
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from worker.channels import Bank, Message
from worker.channels.email.channel import EmailChannel
from worker.settings import load_settings

ADDRESS = "customer@example.com"
URI = "https://mxbank.mx.com/oauth/authorize?client_id=b8Oi&redirect_uri=https%3A%2F%2Fx&state=" + "d273e4f7" * 20

#: In place of a reply: DROP closes the connection; HANG sends nothing until the client closes it.
DROP, HANG = "DROP", "HANG"


class ScriptedServer:
    """An SMTP server whose answer to each verb is set by the test, and which records what it received.

    ``replies`` maps a verb to a line, to ``DROP`` or ``HANG``, or to a list of them: they are used one after the other, and the last one
    from then on. Three keys are no verbs: ``GREETING``; ``INSIDE``, right after the first line of the content; ``CONTENT``, after its end.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, implicit_tls: bool = False) -> None:
        self.replies: dict[str, Any] = {
            "GREETING": "220 ready",
            "EHLO": "250-here\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES",
            "STARTTLS": "220 go ahead",
            "AUTH": "235 2.7.0 welcome",
            "DATA": "354 go ahead",
            "QUIT": "221 bye",
            "INSIDE": None,
        }
        self.mails: list[bytes] = []
        #: (connection, line) in the order of arrival. Tests add entries of their own.
        self.log: list[tuple[int, str]] = []
        self.connections = self.open = self.most_open = 0
        self._tls = tls
        self._implicit_tls = implicit_tls
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ScriptedServer"]:
        implicit = self._tls if self._implicit_tls else None
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=implicit, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def verbs(self) -> list[str]:
        return [line.split(" ")[0] for _, line in self.log]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition is true. It is tested whenever something happens at this server."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)

    async def note(self, connection: int, line: str) -> None:
        self.log.append((connection, line))
        await self._tell()

    async def hang_up(self) -> None:
        """Drop every connection that is open."""
        for task in list(self._tasks):
            task.cancel()
        await self.until(lambda: self.open == 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            # `hang_up` or the end of the test cancels it.
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await self._talk(self.connections, reader, writer)
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()
            with suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await writer.wait_closed()
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _talk(self, me: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._tell()
        await self._reply("GREETING", reader, writer)
        while line := await reader.readline():
            line = line.decode().removesuffix("\r\n")
            verb = line.split(" ")[0].upper()
            await self.note(me, line)
            reply = await self._reply(verb, reader, writer)
            if verb == "STARTTLS":
                await writer.start_tls(self._tls)
            if verb == "DATA" and reply.startswith("354"):
                reply = await self._take_content(me, reader, writer)
            if verb == "QUIT" or reply.startswith("421"):
                return

    async def _take_content(self, me: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        lines = [await reader.readline()]
        if not lines[0]:  # the client closed before it sent a byte of the content
            raise ConnectionResetError
        await self.note(me, "INSIDE")
        await self._reply("INSIDE", reader, writer)
        while lines[-1] != b".\r\n":
            lines.append(await reader.readline())
            if not lines[-1]:
                raise ConnectionResetError
        self.mails.append(b"".join(line.removeprefix(b".") for line in lines[:-1]))
        await self.note(me, "CONTENT")
        return await self._reply("CONTENT", reader, writer)

    async def _reply(self, verb: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        reply = self.replies.get(verb, "250 2.0.0 ok")
        if isinstance(reply, list):
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        if reply == HANG:
            await reader.read()
        if reply in {DROP, HANG}:
            raise ConnectionResetError
        if reply is not None:
            writer.write(reply.encode() + b"\r\n")
            await writer.drain()
        return reply or ""


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """``await serve(RCPT="550 no", …)``: a :class:`ScriptedServer` that runs until the test is over."""
    async with AsyncExitStack() as stack:

        async def start(
            *, tls: ssl.SSLContext | None = None, implicit_tls: bool = False, **replies: Any
        ) -> ScriptedServer:
            server = ScriptedServer(tls=tls, implicit_tls=implicit_tls)
            server.replies |= replies
            return await stack.enter_async_context(server.running())

        yield start


class Mailbox:
    """Keeps the mails that aiosmtpd accepts."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.envelopes.append(envelope)
        return "250 kept"


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    """A real SMTP server on the port ``mailbox.port``."""
    box = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: smtp.SMTP(box, enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    yield box
    server.close()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., EmailChannel]]:
    """``connect(server, …)``: an :class:`EmailChannel` to a server; takes some settings, and parameters of the channel, by name."""
    async with AsyncExitStack() as stack:

        def make(
            server: Any,
            *,
            url: str = "smtp://127.0.0.1:{port}?tls=none",
            connections: int = 10,
            email_reply_to: str | None = None,
            **own: Any,
        ) -> EmailChannel:
            settings = load_settings(
                _env_file=None,
                mx_api_key="k",
                mx_client_id="c",
                uri_keys=Fernet.generate_key().decode(),
                smtp_url=url.format(port=server.port),
                smtp_connections=connections,
                email_from="Acme <no-reply@acme.example>",
                email_reply_to=email_reply_to,
            )
            channel = EmailChannel(
                settings, **{"command_patience": 10.0, "data_patience": 10.0, "first_pause": 0.05, **own}
            )
            stack.push_async_callback(channel.close)
            return channel

        yield make


@pytest.fixture
def make_message() -> Callable[..., Message]:
    def make(**overrides: Any) -> Message:
        values = {
            "key": "episode-7/0/email",
            "address": ADDRESS,
            "locale": None,
            "time_zone": dt.UTC,
            "step": 0,
            "banks": (Bank(name="First Bank", since=dt.datetime(2026, 3, 3, tzinfo=dt.UTC), link=URI),),
        }
        return Message(**{**values, **overrides})

    return make


class Record:
    """A ``dispatching`` that counts its calls."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(the server's TLS context, a client's context that trusts it), with a self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail server of the tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())
