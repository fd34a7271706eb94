"""The mail server fails or refuses, and workers die while they send mails."""

import os
import signal
from functools import partial

from ops.runbook_samples.scene import SITUATIONS, Scene, situation
from worker.cli.processes import free_port


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
    SITUATIONS[f"smtp_{_name}"] = partial(_smtp_fault, fault=_fault)


@situation
def smtp_refused(scene: Scene) -> None:
    """No mail server listens; then the password is wrong."""
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
    SITUATIONS[f"killed_while_mails_leave_{_way}"] = partial(_worker_died_in_data, way=_way)
