"""Every setting and row that may contain a secret gets a canary. After a run with many faults, all output is searched for canaries.

The output: logs of every process at DEBUG, the output of every command, Celery's events, Flower's pages and API, every command that
Redis got, and the database. There, addresses may be in their own columns, and URIs are encrypted.
"""

import base64
import json
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.crew import Cron, Worker
from tests.faults.schedule import LONG, Schedule
from tests.faults.servers import OwnPostgres, OwnValkey
from tests.machine import Machine, get_json, wait_until
from tests.receiver import KEY, Receiver, receiving_aside
from worker.cli.processes import free_port

MEMBERS = 2_000 if LONG else 80

#: The columns in which addresses may be: the application writes them there.
_ADDRESS_COLUMNS = {("users", "email"), ("users", "refused_email"), ("devices", "device_address")}
#: Files that are input of the run or belong to the sandbox. They are not searched.
_GIVEN = {"members.csv", "population.jsonl", "sandbox.json", "sandbox.log"}


@pytest.fixture
def own_valkey() -> Iterator[OwnValkey]:
    """A broker with a password."""
    server = OwnValkey(password="canary-redis-password")
    yield server
    server.kill()


class Monitor:
    """Records every command that a Redis gets, by ``MONITOR``."""

    def __init__(self, server: OwnValkey) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(f"AUTH {server.password}\r\nMONITOR\r\n".encode())
        self._heard = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while piece := self._socket.recv(1 << 16):
            self._heard += piece

    def close(self) -> None:
        """Stop recording."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()

    def end(self) -> str:
        """The recorded commands, followed by the task bodies in them, decoded from base64."""
        self.close()
        text = self._heard.decode(errors="replace").replace('\\"', '"')
        wrapped = re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", text)
        bodies = []
        for body in wrapped:
            with suppress(ValueError):
                bodies.append(base64.b64decode(body, validate=True).decode(errors="replace"))
        return "\n".join([text, *bodies])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An endpoint for events."""
    with receiving_aside() as made:
        yield made


@pytest.fixture
def monitor() -> Iterator[Callable[[OwnValkey], Monitor]]:
    """Makes a monitor of a Redis, which ends with the test."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(closing(Monitor(server)))


@pytest.mark.timeout(900 if LONG else 300)
def test_no_secret_and_nobodys_address_is_found_in_anything_that_a_bad_day_wrote(  # noqa: PLR0917 - fixtures
    machine: Machine,
    populated: Any,
    own_valkey: OwnValkey,
    own_postgres: OwnPostgres,
    schedule: Schedule,
    monitor: Callable[[OwnValkey], Monitor],
    receiver: Receiver,
) -> None:
    url = own_postgres.url.replace("postgres:@", "postgres:canary-database-password@")
    phone = {
        "device_kind": lambda n: "fcm" if n % 4 == 1 else "",
        "device_address": lambda n: f"canary-device-{n:06}" if n % 4 == 1 else "",
        "channel": lambda n: "push" if n % 4 == 1 else "",
    }
    machine.environment |= {"MX_API_KEY": "canary-api-key", "MX_CLIENT_ID": "canary-client-id"}
    machine.environment |= {"MX_ALLOWED_URI_HOSTS": "*.sandbox.example", "BATCH_SIZE": "50"}
    machine.environment |= {"PUBLIC_BASE_URL": "https://links.example"}
    machine.environment |= {"EVENTS_URL": f"{receiver.url}?key=canary-events-key", "EVENTS_SECRETS": KEY}
    receiver.behave = lambda event, nth: {(0, 1): "lose", (5, 1): 500, (5, 2): 410}.get(
        (event["sequence"] % 10, nth), 204
    )
    records = populated(MEMBERS, "--drop-bodies", "--phones", str(machine.folder / "phones"), url=url, columns=phone)
    machine.sign_up(*(f"canary-device-{n:06}" for n in range(1, MEMBERS, 4)))
    machine.control(keys={"api_key": "canary-api-key", "client_id": "canary-client-id"})
    smtp = machine.sandbox["smtp_url"].replace("smtp://", "smtp://canary-mail-user:canary-mail-password@")
    seen = monitor(own_valkey)
    printed = []
    machine.environment["SMTP_URL"] = smtp
    flower = _start_flower(machine)
    with Worker(machine, schedule, loglevel="DEBUG") as worker, Cron(machine, every=1 if LONG else 3) as cron:
        _a_bad_day(machine, records, own_postgres, worker, schedule)
        schedule.note("the work is over")
        pages = _pages_of(flower)
        schedule.note("pages")
        wait_until(lambda: _was_told(records, receiver), seconds=90, what="the events of messages", grain=1)
    schedule.note(f"the events have come, {len(cron.ran)} sweeps")
    printed += [ran.out + ran.err for ran in cron.ran]
    assert machine.pushes(), "nobody was told by push"
    (machine.folder / "bad.csv").write_text(
        "user_guid,member_guid,email,device_kind,device_address\n"
        "USR-x,MBR-x,not an address @mail.example,,\nUSR-y,WRONG,canary@mail.example,fcm,canary-device-x\n"
    )
    for command in _COMMANDS:
        ran = machine(*command.split(), timeout=120)
        assert "Traceback" not in ran.err, ran.err
        printed.append(ran.out + ran.err)
    concurrency = {
        "Redis": seen.end(),
        "Flower": pages,
        "events": "\n".join(f"{headers} {event}" for headers, event in receiver.requests),
        "commands": "\n".join(printed),
        **{path.name: path.read_text(errors="replace") for path in _written(machine.folder)},
    }
    for name in ("worker.log", "events.log", "flower.log", "Redis", "Flower"):
        assert "reconnect.fetch" in concurrency[name], f"{name} shows nothing of the run, so the search proves nothing"
    assert '"level": "debug"' in concurrency["worker.log"]
    assert "notification.sent" in concurrency["events"]
    canaries = _canaries(machine)
    found = {(name, canary[:40]) for name, text in concurrency.items() for canary in canaries if canary in text}
    assert not found
    assert _in_the_database(url, canaries) == set()
    print(schedule)


def _was_told(records: Any, receiver: Receiver) -> bool:
    records.pass_time("pauses")
    return any(event["type"] == "notification.sent" for _, event in receiver.requests)


#: Commands of an operator afterwards.
_COMMANDS = (
    "status --json", "doctor", "explain MBR-000001", "explain MBR-000002 --json", "import bad.csv", "retry", "rotate-keys",
    "sweep --dry-run", "events", "pause everything --reason tired", "resume everything", "optout USR-000001",
)  # fmt: skip


def _a_bad_day(machine: Machine, records: Any, database: OwnPostgres, worker: Worker, schedule: Schedule) -> None:
    """MX, the mail server, the database and the worker itself fail while the work goes on."""
    hostile = ["hostile:newline", "hostile:userinfo", "hostile:javascript"]
    faults = ["500", "503", "html", "truncated", "reset", "429:1", "null_uri", "gone", "rejected", *hostile]
    machine.control(mix=faults, share=0.3, seed=schedule.seed)
    machine.control(
        mail_faults=[
            {"fault": "rcpt:550 5.1.1 <canary@mail.example> is unknown here", "share": 0.1, "seed": 1},
            {
                "fault": "data:451 4.3.0 come again with https://bank.example/oauth/authorize?state=",
                "share": 0.1,
                "seed": 2,
            },
            {"fault": "drop:in-data", "share": 0.05, "seed": 3},
            {"fault": "auth:535 5.7.8 canary-mail-password is not it", "times": 1},
        ]
    )
    wait_until(lambda: machine.ledger()["windows_minted"] > MEMBERS / 10, what="the first windows")
    schedule.note("first windows")
    worker.kill_a_child()
    database.restart("immediate")
    schedule.note("PostgreSQL restarted")
    machine.control(keys="revoke")

    def is_open() -> int:
        records.pass_time("retries")  # otherwise perhaps no reconnection is due, and MX is not asked
        return int(records.one("SELECT count(*) FROM pauses WHERE scope = 'mx'"))

    wait_until(is_open, what="the breaker", grain=0.5)
    machine.control(keys="restore")
    schedule.note("keys restored")

    left: dict[str, Any] = {}

    def over() -> bool:
        records.pass_time("retries", "pauses", "messages")
        # A user with a refused address and no phone stays due until the application writes another address.
        rows = records.all(
            "SELECT state, outcome, count(*) AS n FROM reconnections WHERE state IN ('due', 'leased', 'ready')"
            " AND coalesce(outcome, '') <> 'address_refused' GROUP BY 1, 2"
        )
        left.clear()
        left.update({f"{row.state}, {row.outcome}": row.n for row in rows})
        return not left

    try:
        wait_until(over, seconds=300 if LONG else 150, what="the end of the work", grain=1)
    except AssertionError as error:
        messages = records.all("SELECT channel, state, outcome, count(*) FROM notifications GROUP BY 1, 2, 3")
        raise AssertionError(
            f"{error}: left are {left}, messages {messages}, {records.all('SELECT * FROM pauses')}"
        ) from None


def _start_flower(machine: Machine) -> str:
    port = free_port()
    machine.celery("events", "events", "--dump")
    machine.celery(
        "flower", "flower", f"--port={port}", "--address=127.0.0.1", "--logging=debug",
        environment={"FLOWER_UNAUTHENTICATED_API": "true"},
    )  # fmt: skip
    base = f"http://127.0.0.1:{port}"
    wait_until(lambda: get_json(f"{base}/api/workers") is not None, what="Flower's start", seconds=60)
    return base


def _pages_of(base: str) -> str:
    tasks = wait_until(lambda: get_json(f"{base}/api/tasks"), what="tasks in Flower")
    paths = [
        "/",
        "/workers",
        "/tasks",
        "/broker",
        "/api/workers?refresh=1",
        "/api/tasks",
        "/api/queues/length",
        "/metrics",
    ]
    paths += [f"/task/{id_}" for id_ in list(tasks)[:20]]
    shown = []
    for path in paths:
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(base + path, timeout=20) as answer:
            shown.append(answer.read().decode())
    return "\n".join(shown)


def _written(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*")
        if path.is_file() and path.name not in _GIVEN | {"bad.csv"} and not {"mails", "phones"} & set(path.parts)
    ]  # fmt: skip


def _canaries(machine: Machine) -> list[str]:
    """The planted secrets, and parts of the sandbox's URIs."""
    account = json.loads((machine.folder / "phones" / "service-account.json").read_text())
    lines = [line for line in account["private_key"].splitlines() if not line.startswith("-")]
    return [
        "canary-", "@mail.example", "ya29.", "oauth/authorize", "oauth%2Fauthorize", "response_type=code", "b8OikQ4Ep3",
        "links.example/r/", "links.example/u/",
        machine.environment["URI_KEYS"], lines[1], lines[-2], KEY.removeprefix("whsec_"),
    ]  # fmt: skip


def _in_the_database(url: str, canaries: list[str]) -> set[tuple[str, str, str]]:
    """The places where a column contains a canary that it must not contain."""
    found = set()
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for (row,) in connection.execute(f'SELECT to_jsonb(t) FROM "{table}" t').fetchall():
                for column, value in row.items():
                    if (table, column) not in _ADDRESS_COLUMNS:
                        found |= {(table, column, canary) for canary in canaries if canary in str(value)}
    return found
