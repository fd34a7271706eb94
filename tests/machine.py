"""Starts the real commands and real Celery processes, as a user would. Acceptance and fault tests share this module."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from tests import forked
from worker.sandbox.server import DEFAULT_API_KEY, DEFAULT_CLIENT_ID

ROOT = Path(__file__).resolve().parents[1]


#: Deadlines are multiplied by this, for machines that are busy with other work. They only end a test that hangs; they measure nothing.
PATIENCE = 4


def wait_until(condition: Callable[[], Any], *, seconds: float = 30.0, what: str = "it", grain: float = 0.05) -> Any:
    """Wait until a condition is true; returns its value. ``seconds``: the deadline on an idle machine; ``grain``: seconds between tries."""
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(grain)  # only between two tries: the condition decides
    raise AssertionError(f"{what} did not happen within {seconds * PATIENCE:.0f} s")


def get_json(url: str, *, authorization: str | None = None, timeout: float = 5) -> Any:
    """JSON from a page; ``None`` if the request fails or the answer is no JSON."""
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
        return None


#: A process of a test.
Running = subprocess.Popen[bytes] | forked.Process

#: Modules that are started by :mod:`tests.forked`, which has done their imports.
_FORKED = {"celery", "worker", "worker.sandbox"}


@dataclass
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass
class Machine:
    """A working directory with an environment, and the processes that run in it."""

    folder: Path
    environment: dict[str, str]
    stack: ExitStack
    sandbox: dict[str, Any] = field(default_factory=dict)
    logs: list[Path] = field(default_factory=list)

    def __call__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        timeout: float = 60,
        under: Sequence[str] = (),
        fresh: bool = False,
    ) -> Ran:
        """Run ``reconnect …``. ``fresh``: in a new interpreter, not a forked one. ``under``: a command that runs it."""
        whole = self._env(environment)
        if not under and not fresh and whole["PYTHONPATH"] == str(ROOT):
            ran = forked.run(list(arguments), folder=self.folder, environment=whole, timeout=timeout * PATIENCE)
            return Ran(ran.returncode, ran.stdout, ran.stderr)
        ran = subprocess.run(
            [*under, sys.executable, "-m", "worker", *arguments],
            cwd=self.folder,
            env=whole,
            capture_output=True,
            text=True,
            timeout=timeout * PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def each(
        self, *commands: str | tuple[str, dict[str, str]], timeout: float = 150, under: Sequence[str] = ()
    ) -> list[Ran]:
        """Run commands of ``reconnect`` one after the other in one process, each with its own environment if one is given.

        A command is split at spaces. Its stderr is in ``out`` too. ``sql …`` runs a statement on the SQLite database.
        """
        steps = [(command, {}) if isinstance(command, str) else command for command in commands]
        order = json.dumps([(command.split(" "), environment) for command, environment in steps])
        whole = self._env()
        if under or whole["PYTHONPATH"] != str(ROOT):
            ran = subprocess.run(
                [*under, sys.executable, "-m", "tests.steps", order], cwd=self.folder, env=whole, capture_output=True, text=True,
                timeout=timeout * PATIENCE, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        else:
            ran = forked.run(
                [order], module="tests.steps", folder=self.folder, environment=whole, timeout=timeout * PATIENCE
            )
        assert ran.returncode == 0, ran.stderr
        return [Ran(code, output, "") for code, output in json.loads(ran.stdout)]

    def json(self, *arguments: str, environment: dict[str, str] | None = None) -> Any:
        """Run ``reconnect … --json``; returns the decoded JSON."""
        ran = self(*arguments, "--json", environment=environment)
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    def _env(self, more: dict[str, str] | None = None) -> dict[str, str]:
        bare = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
        return bare | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | self.environment | (more or {})

    def start(self, name: str, *command: str, environment: dict[str, str] | None = None) -> Running:
        """Start a process that is ended with the test; its output goes to ``name.log``."""
        log = self.folder / f"{name}.log"
        self.logs.append(log)
        return self.stack.enter_context(_running(list(command), self.folder, self._env(environment), log))

    def celery(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> Running:
        """``celery -A worker.app …``."""
        return self.start(name, sys.executable, "-m", "celery", "-A", "worker.app", *arguments, environment=environment)

    def start_worker(
        self,
        children: int = 2,
        name: str = "worker",
        *,
        wait: bool = True,
        environment: dict[str, str] | None = None,
        loglevel: str | None = None,
    ) -> Running:
        """A worker with all queues; unless told not to ``wait``, it is ready to take tasks."""
        log = self.folder / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0  # skip the log of an earlier worker of this name
        process = self.celery(
            name, "worker", "-P", "prefork", "-c", str(children), "-Q", "sweep,fetch,deliver,verify,sync,events",
            "--without-gossip", "--without-mingle", "-n", f"{name}@%h", *(["-l", loglevel] if loglevel else []), environment=environment,
        )  # fmt: skip
        if wait:
            wait_until(
                lambda: b" ready." in log.read_bytes()[before:] or process.poll() is not None, what="the worker's start"
            )
            assert process.poll() is None, log.read_text()
        return process

    def start_sandbox(self, rows: list[dict[str, Any]], *options: str) -> None:
        """Start a bank with these members, and add the settings that point to it."""
        population, ready = self.folder / "population.jsonl", self.folder / "sandbox.json"
        population.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.start(
            "sandbox", sys.executable, "-m", "worker.sandbox", "--population", str(population),
            "--mail-dir", str(self.folder / "mails"), "--ready-file", str(ready), *options,
        )  # fmt: skip
        wait_until(ready.exists, what="the sandbox's start")
        self.sandbox = json.loads(ready.read_text())
        self.environment |= {"MX_BASE_URL": self.sandbox["base_url"], "SMTP_URL": self.sandbox["smtp_url"]}
        self.environment |= self.sandbox["push"]

    def sign_up(self, *tokens: str) -> None:
        """Register Android phones with these tokens; the sandbox needs ``--phones``."""
        body = json.dumps({"devices": [{"kind": "fcm", "token": token} for token in tokens]}).encode()
        url = f"{self.sandbox['base_url']}/sandbox/phones"
        with urllib.request.urlopen(
            urllib.request.Request(url, body, {"Content-Type": "application/json"}), timeout=10
        ) as response:
            assert response.status < 300

    def pushes(self) -> dict[str, int]:
        """The number of messages that each device got, by its address. Devices that got none are left out."""
        told = get_json(f"{self.sandbox['base_url']}/sandbox/phones.json")["told"]
        return {address: count for address, count in told.items() if count}

    def control(self, **orders: Any) -> None:
        """Change how the sandbox behaves."""
        body = json.dumps(orders).encode()
        request = urllib.request.Request(self.sandbox["control"], body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status < 300

    def ledger(self, *, members: bool = False) -> Any:
        """The requests that the bank got."""
        return get_json(f"{self.sandbox['ledger']}?members={str(members).lower()}")

    def mails(self, *, listed: bool = False) -> Any:
        """The contents of the mailbox."""
        return get_json(f"{self.sandbox['base_url']}/sandbox/mail.json?mails={str(listed).lower()}")


@contextmanager
def _running(command: list[str], folder: Path, environment: dict[str, str], log: Path) -> Iterator[Running]:
    process: Running
    with log.open("ab") as file:
        if command[:2] == [sys.executable, "-m"] and command[2] in _FORKED and environment["PYTHONPATH"] == str(ROOT):
            process = forked.Process(command[2], command[3:], folder, environment, file.fileno(), file.fileno())
        else:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cast_of(count: int, *, users: int | None = None, **extra: Any) -> tuple[list[dict[str, Any]], str]:
    """``count`` broken members of ``users`` users, or of one user each: rows for the sandbox, and a CSV text for `reconnect import`.

    The members of one user are spread at random over the list.
    """
    whose = [n % (users or count) for n in range(count)]
    if users:
        random.Random(count).shuffle(whose)
    rows = [{"user_guid": f"USR-{u:06}", "member_guid": f"MBR-{n:06}", **extra} for n, u in enumerate(whose)]
    lines = [
        f"{row['user_guid']},{row['member_guid']},DENIED,person{u:06}@mail.example"
        for row, u in zip(rows, whose, strict=True)
    ]
    return rows, "\n".join(["user_guid,member_guid,connection_status,email", *lines]) + "\n"


def environment_for(folder: Path, redis_url: str) -> dict[str, str]:
    """SQLite in ``folder``, this broker, and settings that send messages at once."""
    return {
        "DATABASE_URL": f"sqlite:///{folder / 'reconnect.db'}",
        "REDIS_URL": redis_url,
        "MX_BASE_URL": "http://127.0.0.1:9",
        "MX_API_KEY": DEFAULT_API_KEY,
        "MX_CLIENT_ID": DEFAULT_CLIENT_ID,
        "URI_KEYS": Fernet.generate_key().decode(),
        "EMAIL_FROM": "Ledgerly <no-reply@ledgerly.example>",
        "NOTIFY_AFTER": "0",
        "QUIET_HOURS": "",
        # The simulated bank is a single process. On a busy machine it is too slow for some hundred requests at once: calls time out, and
        # the breaker rightly stops everything.
        "MX_MAX_CONNECTIONS": "50",
    }
