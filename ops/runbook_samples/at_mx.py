"""MX fails, refuses us, or is another server."""

from ops.runbook_samples.scene import Scene, situation


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
    """Every answer is 503: the breaker opens, probes, and closes."""
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
    """Every answer is 404. Each process ends at most twenty reconnections as gone."""
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
