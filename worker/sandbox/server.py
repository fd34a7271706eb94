"""The sandbox as a process: bank and mailbox in one event loop, on loopback, until SIGTERM."""

import asyncio
import contextlib
import ipaddress
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from worker.errors import UsageError, WorkerError
from worker.sandbox.bank import Bank
from worker.sandbox.consent import Consent
from worker.sandbox.control import Control
from worker.sandbox.front import Front
from worker.sandbox.mail_pages import MailPages
from worker.sandbox.mail_server import MailServer
from worker.sandbox.mailbox import Mailbox
from worker.sandbox.population import load_population
from worker.sandbox.speech import Keys
from worker.sandbox.webhooks import is_target

if TYPE_CHECKING:
    from worker.sandbox.phones.network import Phones

DEFAULT_API_KEY = "sandbox-api-key"
DEFAULT_CLIENT_ID = "sandbox-client-id"
DEFAULT_WEBHOOK_AUTH = "mx:sandbox-webhooks"

_BACKLOG = 2048
#: Limit of open files and sockets. MX allows 2,000 connections per address, and mail needs others.
_OPEN_FILES = 8192
#: How long running requests may take to finish once the sandbox stops; a ``slow:60`` is cut off.
_STOP_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """How to run a sandbox. Hosts must be loopback: the control interface has no password."""

    #: JSON Lines, see :mod:`worker.sandbox.population`.
    population: Path
    #: The folder for mails, created if missing. ``None`` is allowed only if ``keep_bodies`` is false.
    mail_dir: Path | None = None
    #: ``False``: mails are counted and not stored, for load tests.
    keep_bodies: bool = True
    host: str = "127.0.0.1"
    #: 0 for any free port.
    http_port: int = 0
    smtp_port: int = 0
    api_key: str = field(default=DEFAULT_API_KEY, repr=False)
    client_id: str = field(default=DEFAULT_CLIENT_ID, repr=False)
    #: Seconds that each answer of the bank takes.
    latency: float = 0.0
    #: Seconds before each reply of the mail server.
    mail_latency: float = 0.0
    #: The one login that the mail server accepts; ``None`` accepts any login, and mail without one.
    mail_login: tuple[str, str] | None = field(default=None, repr=False)
    #: Seconds from a consent until its aggregation ends.
    aggregation_seconds: float = 1.0
    #: The folder for a push sender's keys; ``None``: no phones. Phones need the packages of the ``push`` extra.
    phones: Path | None = None
    #: Where `reconnect web` listens, such as ``http://127.0.0.1:8080``: a front for it is opened (:mod:`worker.sandbox.front`).
    web: str | None = None
    front_port: int = 0
    #: Where MX's webhooks are sent, and the credentials in them, as in ``MX_WEBHOOK_AUTH`` (:mod:`worker.sandbox.webhooks`). With ``web``,
    #: and ``auth`` without a URL, they are sent through the front.
    webhooks: str | None = None
    webhook_auth: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """The URLs of a running sandbox."""

    #: The base URL for a client of MX.
    base_url: str
    #: The URL for a sender of mail, without TLS.
    smtp_url: str
    #: The pages that show mail in a browser.
    mail_page: str
    ledger: str
    control: str
    #: The settings with which a sender of push messages reaches the phones; empty without phones.
    push: dict[str, str] = field(default_factory=dict)
    #: ``PUBLIC_BASE_URL``, if there is a front.
    public_base_url: str | None = None

    @classmethod
    def of(cls, host: str, http_port: int, smtp_port: int) -> "Addresses":
        shown = f"[{host}]" if ":" in host else host
        base = f"http://{shown}:{http_port}"
        return cls(
            base_url=base,
            smtp_url=f"smtp://{shown}:{smtp_port}?tls=none",
            mail_page=f"{base}/sandbox/mail",
            ledger=f"{base}/sandbox/ledger",
            control=f"{base}/sandbox/control",
        )


async def serve(config: SandboxConfig, ready: Callable[[Addresses], None]) -> None:
    """Run until cancelled or until SIGTERM; ``ready`` is called once both servers listen.

    Raises :class:`WorkerError` for a population, an address or a folder that cannot be used.
    """
    _check(config)
    bank = Bank(
        load_population(config.population),
        keys=Keys(api_key=config.api_key, client_id=config.client_id),
        latency=config.latency,
        aggregation_takes=timedelta(seconds=config.aggregation_seconds),
    )
    try:
        mailbox = Mailbox(config.mail_dir if config.keep_bodies else None)
    except OSError as error:
        raise WorkerError(f"sandbox: {config.mail_dir} cannot hold mail: {error.strerror}") from None
    bank.members.webhooks.url, bank.members.webhooks.auth = config.webhooks, config.webhook_auth
    mail = MailServer(mailbox, latency=config.mail_latency, login=config.mail_login)
    pages = MailPages(mailbox)
    consent = Consent(bank.members, bank.ledger)
    front = Front(config.web) if config.web is not None else None
    phones = _phones(config.phones)
    _allow_many_connections()
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(_told_to_stop())
        if phones is not None:
            await stack.enter_async_context(phones.running())
        runner = web.AppRunner(
            _application(bank, consent, mail, pages, phones),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_STOP_SECONDS,
        )
        await runner.setup()
        try:
            http_port = await _listen(runner, config)
            consent.origins = await _other_origins(runner, config.host, http_port)
            try:
                smtp_port = await mail.start(config.host, config.smtp_port)
            except OSError as error:
                raise _cannot_listen(config.host, config.smtp_port, error) from None
            addresses = Addresses.of(config.host, http_port, smtp_port)
            pages.base_url = mail.scanner.base_url = addresses.base_url
            if phones is not None:
                phones.base_url = addresses.base_url
                addresses = replace(addresses, push=phones.settings())
            if front is not None:
                front.base_url = addresses.base_url
                try:
                    port = await stack.enter_async_context(front.running(config.host, config.front_port))
                except OSError as error:
                    raise _cannot_listen(config.host, config.front_port, error) from None
                public = Addresses.of(config.host, port, 0).base_url
                addresses = replace(addresses, public_base_url=public)
                if config.webhooks is None and config.webhook_auth is not None:
                    bank.members.webhooks.url = f"{public}/webhooks/mx"
            ready(addresses)
            await stop.wait()
        finally:
            await bank.members.webhooks.close()
            await mail.stop()
            await runner.cleanup()


def _phones(folder: Path | None) -> "Phones | None":
    """Phones and browsers, if configured. Imported here, because only they need the packages of the ``push`` extra."""
    if folder is None:
        return None
    try:
        from worker.sandbox.phones.network import Phones
    except ImportError:
        raise WorkerError("sandbox: phones need: pip install 'reconnection-worker[push]'") from None
    try:
        return Phones(folder)
    except OSError as error:
        raise WorkerError(f"sandbox: {folder} cannot hold keys: {error.strerror}") from None


def _application(
    bank: Bank, consent: Consent, mail: MailServer, pages: MailPages, phones: "Phones | None"
) -> web.Application:
    application = web.Application()
    for part in (bank, consent, Control(bank, consent, mail), pages):
        application.router.add_routes(part.routes())
    if phones is not None:
        application.router.add_routes(phones.routes())
    application.router.add_get("/", _front)
    return application


async def _front(_request: web.Request) -> web.Response:
    raise web.HTTPSeeOther("/sandbox/mail")


async def _listen(runner: web.AppRunner, config: SandboxConfig) -> int:
    try:
        await web.TCPSite(runner, config.host, config.http_port, backlog=_BACKLOG).start()
    except OSError as error:
        raise _cannot_listen(config.host, config.http_port, error) from None
    port: int = runner.addresses[0][1]
    return port


async def _other_origins(runner: web.AppRunner, host: str, port: int) -> list[str]:
    """Addresses of this process that a browser treats as different hosts. The IPv6 address is left out on a machine without IPv6."""
    origins = [Addresses.of(host, port, 0).base_url]
    if host == "127.0.0.1":
        origins.append(f"http://localhost:{port}")
        with contextlib.suppress(OSError):
            await web.TCPSite(runner, "::1", port, backlog=_BACKLOG).start()
            origins.append(f"http://[::1]:{port}")
    return origins


def _cannot_listen(host: str, port: int, error: OSError) -> WorkerError:
    return WorkerError(f"sandbox: cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}")


def _check(config: SandboxConfig) -> None:
    try:
        loopback = ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError("sandbox: the host must be a loopback address such as 127.0.0.1: control has no password")
    if config.webhooks is not None and not is_target(config.webhooks):
        raise UsageError("sandbox: webhooks: expected a URL such as http://127.0.0.1:8080/webhooks/mx")
    if config.keep_bodies and config.mail_dir is None:
        raise UsageError("sandbox: a folder for mail is missing; name one, or keep no bodies")


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _told_to_stop() -> Iterator[asyncio.Event]:
    """An event that SIGTERM sets. On Ctrl-C ``asyncio.run`` cancels by itself."""
    stop = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
