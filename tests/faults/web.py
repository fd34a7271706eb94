"""`reconnect web` in processes that can be killed, and customers who press its buttons over real connections."""

import asyncio
import random
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.faults.records import Records
from tests.machine import Machine, Running, wait_until
from worker.cli.processes import free_port
from worker.policy.links import hash_of

#: A click that takes longer counts as hanging (seconds). The web process takes 21 s at most, and a read may wait for a restart.
HANGING = 60.0

_FAR = "2100-01-01 00:00:00.000000"


def new_secret() -> str:
    """A token or a nonce."""
    return secrets.token_urlsafe(16)


class Web:
    """The public address of a machine, and the processes that serve it."""

    def __init__(self, machine: Machine, **environment: str) -> None:
        self._machine = machine
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        machine.environment |= {"PUBLIC_BASE_URL": self.base, "WEB_LISTEN": f"127.0.0.1:{self.port}"} | environment
        self._started = 0
        self.processes: list[Running] = []

    def start(self) -> Running:
        """Start one more process; return when it serves."""
        self._started += 1
        name = f"web-{self._started}"
        log = self._machine.folder / f"{name}.log"
        process = self._machine.start(name, sys.executable, "-m", "worker", "web")
        wait_until(
            lambda: b"web_ready" in log.read_bytes() or process.poll() is not None, what="the web process' start"
        )
        assert process.poll() is None, log.read_text()
        self.processes.append(process)
        return process

    def kill(self, process: Running | None = None) -> None:
        """Send SIGKILL to this process, or to the one that was started first."""
        process = process or self.processes[0]
        self.processes.remove(process)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def logs(self) -> dict[str, str]:
        """The processes' logs, by file."""
        return {path.name: path.read_text(errors="replace") for path in self._machine.folder.glob("web-*.log")}


def make_links(records: Records, owners: Sequence[str], *, notification_id: int | None = None) -> list[str]:
    """Make a link for each of these users: about all their banks, or about those that this message names. Returns the tokens."""
    tokens = [new_secret() for _ in owners]
    now = _FAR.replace("2100", "2020")
    with records.connection() as connection:
        for token, owner in zip(tokens, owners, strict=True):
            connection.exec_driver_sql(
                "INSERT INTO links (token_hash, user_guid, notification_id, created_at, expires_at) VALUES "
                f"('{hash_of(token)}', '{owner}', {notification_id or 'NULL'}, '{now}', '{_FAR}')"
            )
    return tokens


def stored_messages(records: Records) -> dict[int, str]:
    """The sent messages: their ids, and their users."""
    return {
        row.id: row.user_guid for row in records.all("SELECT id, user_guid FROM notifications WHERE state = 'sent'")
    }


def checksum(records: Records) -> Mapping[str, tuple[int, str]]:
    """Number of rows and checksum of each table of a PostgreSQL database."""
    tables = [name for (name,) in records.all("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    query = "SELECT count(*), coalesce(md5(string_agg(t::text, ' ' ORDER BY t::text)), '') FROM \"{}\" t"
    return {table: tuple(records.all(query.format(table))[0]) for table in tables}


@dataclass(frozen=True, kw_only=True)
class Pressed:
    """The result of one press."""

    token: str
    nonce: str
    #: HTTP status. 0: no answer, and ``why`` names the error.
    status: int
    uri: str = field(default="", repr=False)
    text: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    why: str = ""
    took: float = 0.0
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def has_a_way_on(self) -> bool:
        """Whether the customer is led to the bank or gets a page that tells what to do next."""
        if self.status == 303:
            return self.uri.startswith("https://")
        return self.status in {200, 404, 429, 503} and "<h1>" in self.text and "<footer>" in self.text

    def __str__(self) -> str:
        return f"{self.status} {self.why} after {self.took:.1f} s"


class Customers:
    """Browsers without cookies that do not follow redirects."""

    def __init__(self, web: Web, session: aiohttp.ClientSession) -> None:
        self._web = web
        self._session = session

    async def press(self, token: str, nonce: str | None = None, *, port: int | None = None, **fields: Any) -> Pressed:
        """Press the button of a link."""
        nonce, began = nonce or new_secret(), time.monotonic()
        base = self._web.base if port is None else f"http://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(HANGING):
                async with self._session.post(
                    f"{base}/r/{token}",
                    data={"nonce": nonce} | fields,
                    headers={"Host": self._web.base.removeprefix("http://")},
                    allow_redirects=False,
                ) as answer:
                    text = await answer.text()
        except TimeoutError:
            return Pressed(token=token, nonce=nonce, status=0, why="left hanging", took=time.monotonic() - began)
        except aiohttp.ClientError as error:
            return Pressed(token=token, nonce=nonce, status=0, why=type(error).__name__, took=time.monotonic() - began)
        uri = answer.headers.get("Location", "")
        return Pressed(
            token=token,
            nonce=nonce,
            status=answer.status,
            uri=uri,
            text=text,
            headers=answer.headers,
            took=time.monotonic() - began,
        )

    async def get(self, path: str, *, method: str = "GET") -> tuple[int, str, Mapping[str, str]]:
        """Open a page."""
        async with self._session.request(method, self._web.base + path, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers


@asynccontextmanager
async def customers_of(web: Web, *, connections: int = 400) -> AsyncIterator[Customers]:
    """Customers. Every request opens a new connection, as those of real customers do."""
    connector = aiohttp.TCPConnector(limit=connections, force_close=True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Customers(web, session)


async def press_for(
    customers: Customers, tokens: Sequence[str], rng: random.Random, *, rate: float, until: asyncio.Event
) -> list[Pressed]:
    """Press random links at a steady rate until the event is set; one press in five is a double click. Returns the results."""
    under_way: list[asyncio.Task[Pressed]] = []
    began = time.monotonic()
    while not until.is_set():
        token, nonce = rng.choice(tokens), new_secret()
        under_way += [asyncio.create_task(customers.press(token, nonce)) for _ in range(2 if rng.random() < 0.2 else 1)]
        behind = len(under_way) / rate - (time.monotonic() - began)
        if behind > 0:
            await asyncio.sleep(behind)  # keeps the rate
    return list(await asyncio.gather(*under_way))


def each_uri_belongs_to_one_click(presses: Sequence[Pressed]) -> int:
    """Assert that no URI was handed to two links or to two loads of a page; return the number of URIs."""
    whose: dict[str, set[tuple[str, str]]] = {}
    for press in presses:
        if press.status == 303:
            whose.setdefault(press.uri, set()).add((press.token, press.nonce))
    assert [clicks for clicks in whose.values() if len(clicks) > 1] == []
    return len(whose)


def statuses(presses: Sequence[Pressed]) -> Counter[str]:
    """How many presses had each result."""
    return Counter(f"{press.status} {press.why}".strip() for press in presses)


class LostAnswers:
    """Relays connections to a server. Once ``word`` is set, the server's answers after that word of the client are withheld.

    Between a process and PostgreSQL, with the text of a statement that commits: it is committed, and the process does not know.
    Between a customer and the web process: the answer is written, and does not arrive.
    """

    def __init__(self, target: str | int, at: Path | None = None) -> None:
        """``target``: a port, or the path of a Unix socket; the relay listens at ``at``, or on :attr:`port`."""
        self._target = target
        self.word: bytes | None = None
        #: On how many connections an answer was withheld.
        self.kept = 0
        if at is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(at))
            self._listener.listen(64)
        self.port = 0 if at else self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more connections, and wait until the existing ones have ended, which they do with their processes."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(30)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        is_port = isinstance(self._target, int)
        silent = threading.Event()
        with client, socket.socket(socket.AF_INET if is_port else socket.AF_UNIX) as server, suppress(OSError):
            server.connect(("127.0.0.1", self._target) if is_port else self._target)
            back = threading.Thread(target=self._relay, args=(server, client, silent), daemon=True)
            back.start()
            self._relay(client, server, silent, is_client=True)
            back.join()

    def _relay(
        self, source: socket.socket, sink: socket.socket, silent: threading.Event, *, is_client: bool = False
    ) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                if is_client and self.word is not None and self.word in piece and not silent.is_set():
                    silent.set()
                    self.kept += 1
                if is_client or not silent.is_set():
                    sink.sendall(piece)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
