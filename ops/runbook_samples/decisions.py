"""Situations that need an operator's decision: quarantined rows, outages, pauses, keys, a full disk."""

import os
import signal
import subprocess

from cryptography.fernet import Fernet

from ops.runbook_samples.scene import Scene, children_of, situation


@situation
def poison(scene: Scene) -> None:
    """A row whose workers die, six times."""
    scene.members(5)
    scene.set(LEASE_SECONDS="10")
    scene.machine.control(member="MBR-000003", script=["slow:30"])
    worker = scene.machine.start_worker(children=1)
    for death in range(6):
        scene.sql("UPDATE reconnections SET next_attempt_at = '2020-01-01 00:00:00' WHERE state = 'due'")
        scene.run("sweep", quiet=death > 0)
        scene.until(lambda: scene.machine.ledger()["in_flight"] == 1, "the request")
        os.kill(children_of(worker)[0], signal.SIGKILL)
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
    scene.sql(
        "UPDATE reconnections SET opened_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '-2 hours') WHERE state = 'due'"
    )
    scene.sql("UPDATE pauses SET probe_at = '2020-01-01 00:00:00'")
    scene.run("sweep")
    scene.table(
        "SELECT outcome, count(*), min(next_attempt_at), max(next_attempt_at) FROM reconnections WHERE state = 'due' GROUP BY 1"
    )
    scene.sql("UPDATE reconnections SET opened_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE state = 'due'")
    scene.run("sweep")
    scene.run("resume", "outage:alder")
    scene.run("sweep")
    scene.run("status", lines="Paused|due|hand")


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
    """A full disk and a read-only one. Without the right to mount, only what limits and a file's mode can show."""
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
