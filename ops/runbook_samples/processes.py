"""A good day, and processes, brokers, databases and clocks that fail."""

import os
import signal
import sys

import psutil  # type: ignore[import-untyped]
import redis

from ops.runbook_samples.scene import Scene, broker, children_of, postgresql, situation


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
    """SIGKILL of a child that has claimed rows."""
    scene.members(400, script=["slow:8"])
    scene.set(LEASE_SECONDS="20", MX_MAX_CONNECTIONS="50", BATCH_SIZE="50")
    worker = scene.machine.start_worker()
    show = scene.flower()
    scene.run("sweep")
    scene.busy()
    os.kill(children_of(worker)[0], signal.SIGKILL)
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
    orphans = children_of(worker)
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
    """Valkey killed, restarted empty, flushed."""
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
    scene.broker = scene.stack.enter_context(broker(port))
    scene.until(lambda: "1 running" in scene.run("doctor", quiet=True), "the worker's return", 90)
    scene.log("onnect")
    scene.log("onnect", "rror", of="beat")
    with redis.Redis(port=port) as client:
        client.flushall()
    scene.run("sweep")
    scene.run("doctor", lines="broker|workers")


@situation
def paced(scene: Scene) -> None:
    """A rate is set, and more members are due than it allows. Redis goes away and comes back meanwhile."""
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
    scene.broker = scene.stack.enter_context(broker(port))
    scene.said(b"pacing_shared")
    scene.log("pacing_", '"report"', most=12)
    show()


@situation
def postgresql_away(scene: Scene) -> None:
    """PostgreSQL stopped under load, and back."""
    with postgresql(scene) as (stop, start):
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
    with postgresql(scene) as (stop, start):
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
        scene.broker = scene.stack.enter_context(broker(port))
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
    """The clock of a worker's host is more than four minutes ahead of beat's host, so every sweep of beat has expired for it."""
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
    """No sweep runs, then no worker."""
    scene.members(50)
    scene.run("status", lines="sweep|hand")
    scene.run("sweep", "--wait", "--timeout", "15")
    scene.run("doctor", lines="workers|database")
    scene.run("status", lines="hand|sweep")
    with redis.Redis(port=scene.broker.port) as client:
        print("LLEN", {queue: client.llen(queue) for queue in ("sweep", "fetch", "deliver", "verify", "sync")})
