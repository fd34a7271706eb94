"""The whole job with the real `celery` command, Flower's HTTP API included."""

import base64
import json
import os
import re
import signal
import sys
import time
import urllib.request
from typing import Any

import psycopg
import pytest
import redis

from tests.machine import PATIENCE


def _settle(machine: Any, timeout: int = 60) -> Any:
    ran = machine("sweep", "--wait", "--timeout", str(timeout * PATIENCE), timeout=timeout + 30)
    assert ran.code == 0, ran.err
    return ran


def _everything_in(url: str) -> str:
    """All keys and values in Redis."""
    found = []
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            found.append(key)
            match client.type(key):
                case b"string":
                    found.append(client.get(key))
                case b"list":
                    found += client.lrange(key, 0, -1)
                case b"hash":
                    found += [part for pair in client.hgetall(key).items() for part in pair]
                case b"set":
                    found += client.smembers(key)
                case b"zset":
                    found += [member for member, _ in client.zscan_iter(key)]
    text = b"\n".join(part for part in found if isinstance(part, bytes)).decode(errors="replace")
    # Kombu encodes a task's body in base64.
    bodies = re.findall(r'"body": "([A-Za-z0-9+/=]+)"', text)
    return text + "\n".join(base64.b64decode(body).decode(errors="replace") for body in bodies)


#: How many members each of the two flavours gets. They share the code, so only one gets many; with ``FAULTS=long`` both do.
_MANY, _SECOND = (10_000, 10_000) if os.environ.get("FAULTS") == "long" else (1_500, 300)


@pytest.mark.parametrize(("api", "count"), [("atrium", _MANY), ("platform", _SECOND)])
def test_thousands_of_members_on_postgresql_each_get_one_window_and_one_mail(
    machine: Any, acceptance: Any, postgres: Any, api: str, count: int
) -> None:
    machine.environment |= {"DATABASE_URL": (url := postgres.database()), "MX_API": api}
    rows, csv = acceptance.cast_of(count)
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows, "--drop-bodies")
    assert machine("import", "members.csv").code == 0
    machine.start_worker(children=2)
    assert f"opened {count}" in _settle(machine, 120).out
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT state, count(*) FROM reconnections GROUP BY state").fetchall() == [
            ("notified", count)
        ]
        windows = connection.execute("SELECT count(*), count(DISTINCT reconnection_id) FROM windows").fetchone()
        assert windows == (count, count)
        sent = connection.execute(
            "SELECT state, count(*), count(DISTINCT user_guid) FROM notifications GROUP BY state"
        ).fetchall()
        assert sent == [("sent", count, count)]
        uris = connection.execute("SELECT uri FROM windows LIMIT 100").fetchall()
        assert not any("http" in uri for (uri,) in uris)
    mails = machine.mails()
    assert mails["count"] == count
    assert len(mails["recipients"]) == count
    assert not mails["repeated"]
    ledger = machine.ledger()
    assert ledger["windows_minted"] == count
    assert ledger["flavours"].keys() == {api}
    if api == "platform":
        assert ledger["reads"] >= count, "each member is read before its mail leaves"
    # A second sweep right after does nothing, except to wake verify if members are due for a check.
    second = machine.json("sweep")
    assert second.pop("woken").keys() <= {"verify"}
    assert set(second.values()) == {0}
    held = _everything_in(machine.environment["REDIS_URL"])
    logs = "".join(log.read_text(errors="replace") for log in machine.logs if log.name == "worker.log")
    for text in (held, logs):
        for secret in (
            "oauth/authorize",
            "state=",
            "@mail.example",
            machine.environment["MX_API_KEY"],
            machine.environment["URI_KEYS"],
        ):
            assert secret not in text
    for guid in ("USR-", "MBR-"):
        assert guid not in held


def test_flower_shows_every_task_by_name_with_a_short_result_or_the_reason_of_a_failure_and_no_secret(
    machine: Any, acceptance: Any
) -> None:
    rows, csv = acceptance.cast_of(30)
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows)
    machine.start_worker()  # before there is a schema
    port = acceptance.free_port()
    machine.celery(
        "flower", "flower", f"--port={port}", "--address=127.0.0.1", environment={"FLOWER_UNAUTHENTICATED_API": "true"}
    )
    base = f"http://127.0.0.1:{port}"
    query = "/tasks/datatable?draw=1&start=0&length=50&search[value]=&order[0][column]=0&order[0][dir]=asc&columns[0][data]=name"
    acceptance.wait_until(lambda: acceptance.get_json(f"{base}/api/workers"), what="Flower's start")
    with urllib.request.urlopen(f"{base}/tasks", timeout=10) as page:
        headings = re.findall(r"<th[^>]*>\s*([^<]*?)\s*</th>", page.read().decode())
    assert headings == ["Name", "State", "Result", "Received", "Runtime", "Worker"]

    def result(state: str) -> Any:
        rows = (acceptance.get_json(base + query) or {"data": []})["data"]
        return [row["result"] for row in rows if row["name"] == "reconnect.sweep" and row["state"] == state]

    def wake() -> None:
        assert machine.celery("wake", "call", "reconnect.sweep", "--queue", "sweep").wait(120) == 0

    wake()
    failed = acceptance.wait_until(lambda: result("FAILURE"), what="the failed task")
    assert "reconnect migrate" in failed[0]
    assert failed[0].startswith("sweep: ")
    log = (machine.folder / "worker.log").read_text()
    assert log.count("reconnect migrate") == 1, "a failure is logged once"
    assert "object at 0x" not in log
    assert machine("migrate").code == 0
    wake()
    assert acceptance.wait_until(lambda: result("SUCCESS"), what="the task that succeeded") == ["'nothing to do'"]
    assert machine("import", "members.csv").code == 0
    _settle(machine)

    def done() -> Any:
        tasks = acceptance.get_json(f"{base}/api/tasks") or {}
        names = {task["name"] for task in tasks.values() if task["state"] == "SUCCESS"}
        return tasks if {"reconnect.fetch", "reconnect.deliver"} <= names else None

    tasks = acceptance.wait_until(done, what="the tasks in Flower")
    results = {task["name"]: task["result"] for task in tasks.values() if "30" in (task["result"] or "")}
    assert re.fullmatch(r"'ready 30, \d+\.\d s'", results["reconnect.fetch"])
    assert all(
        task["args"] in ("()", "[]") and task["kwargs"] in ("{}", "")
        for task in tasks.values()
        if task["name"] != "reconnect.sweep"
    )
    shown = json.dumps(tasks)
    for secret in ("oauth/authorize", "state=", "@mail.example", "MBR-", "USR-", machine.environment["MX_API_KEY"]):
        assert secret not in shown
    assert machine.mails()["count"] == 30


def test_a_wrong_key_stops_fetching_and_is_told_by_status_and_doctor(machine: Any, acceptance: Any) -> None:
    rows, csv = acceptance.cast_of(300)
    machine("migrate")
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows)
    machine("import", "members.csv")
    machine.environment["MX_API_KEY"] = "not-the-key"
    machine.start_worker()
    ran = machine("sweep", "--wait", "--timeout", str(60 * PATIENCE), timeout=90)
    assert ran.code == 1
    assert "paused: mx: http_401" in ran.err
    status = machine("status")
    assert "Paused mx since" in status.out
    assert "http_401" in status.out
    doctor = machine("doctor")
    assert doctor.code == 1
    assert "http_401" in doctor.out
    found = machine.json("status")
    assert found["reconnections"]["due"] == 300
    assert found["backlog"]["retrying"] == 0
    asked = machine.ledger()["requests"]
    machine("sweep")
    assert machine.ledger()["requests"] == asked + 0
    assert "not-the-key" not in (machine.folder / "worker.log").read_text()


@pytest.mark.parametrize("whom", ["the main process", "the whole group"])
def test_a_worker_that_is_asked_to_stop_hands_back_what_it_has_not_begun(
    machine: Any, acceptance: Any, whom: str
) -> None:
    rows, csv = acceptance.cast_of(600, script=["slow:2"])
    machine("migrate")
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows)
    machine("import", "members.csv")
    machine.environment |= {"MX_MAX_CONNECTIONS": "20", "BATCH_SIZE": "100"}
    worker = machine.start_worker()
    machine("sweep")
    acceptance.wait_until(lambda: machine.ledger()["in_flight"] >= 20, what="the first requests")
    began = time.monotonic()
    if whom == "the whole group":
        os.killpg(worker.pid, signal.SIGTERM)
    else:
        worker.terminate()
    worker.wait(120)
    assert time.monotonic() - began < 45  # all 600 take a minute
    found = machine.json("status")
    assert found["backlog"]["leased"] == 0
    assert found["backlog"]["due_now"] > 0
    assert found["reconnections"]["ready"] + found["reconnections"]["notified"] >= 20
    assert "prematurely" not in (machine.folder / "worker.log").read_text()


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_without_children_does_the_whole_job_too(machine: Any, acceptance: Any, pool: str) -> None:
    rows, csv = acceptance.cast_of(20)
    assert machine("migrate").code == 0
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows)
    imported = machine("import", "members.csv")
    assert imported.code == 0, imported.err
    machine.celery("worker", "worker", "-P", pool, "-c", "2")
    _settle(machine)
    assert machine.mails()["count"] == 20


def test_the_demo_runs_the_whole_job_on_platform_and_says_where_to_look(machine: Any) -> None:
    ran = machine("demo", "--members", "100", "--api", "platform", timeout=150)
    assert ran.code == 0, ran.err
    assert "MX's Platform" in ran.err
    assert "must end" in ran.out
    assert "Flower" in ran.out
    assert "mails are in demo/mails" in ran.out
    assert list((machine.folder / "demo" / "mails").glob("*.eml"))
    assert "given up after the last reminder went unanswered" in ran.err


def test_in_the_demos_forty_days_everybody_is_told_exactly_as_often_as_they_must_be(machine: Any) -> None:
    ran = machine("demo", "--members", "200", "--json", timeout=150)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["api"], found["members"], found["wrong"]) == ("atrium", 200, 0)
    kinds = {row["kind"]: row for row in found["kinds"]}
    assert all(row["members"] for row in kinds.values())
    for name, ended, mails, pushes in (
        ("status DENIED", "exhausted", 5, 0),
        ("three banks, one message", "exhausted", 5, 0),
        ("clicks the link, allows", "reconnected", 1, 0),
        ("clicks the reminder's link", "reconnected", 2, 0),
        ("three banks, clicks all", "reconnected", 1, 0),
        ("Android, no mail", "exhausted", 0, 5),
        ("iPhone, no mail", "exhausted", 0, 5),
        ("browser, no mail", "exhausted", 0, 5),
        ("clicks after three days", "reconnected", 1, 0),
        ("double-clicks", "reconnected", 1, 0),
        ("clicks while MX is down", "reconnected", 1, 0),
        ("Android, clicks the push", "reconnected", 0, 1),
        ("mail and phone, wants push", "exhausted", 0, 5),
        ("old phone gone, new one", "exhausted", 0, 5),
        ("iPhone gone, mail instead", "exhausted", 5, 0),
        ("browser gone, mail instead", "exhausted", 5, 0),
        ("in quiet hours", "exhausted", 5, 0),
        ("opted out", "due", 0, 0),
        ("neither mail nor phone", "due", 0, 0),
    ):
        row = kinds[name]
        assert row["did"] == {ended: row["members"]}, name
        assert (row["mails_a_user"], row["pushes_a_user"]) == ([mails], [pushes]), name
    # "old phone gone, new one" is not among them: the new phone is tried first, so no message goes to the dead one.
    dead = ("iPhone gone, mail instead", "browser gone, mail instead")
    assert found["notifications"]["suppressed"] == sum(kinds[name]["users"] for name in dead)
    assert found["returns"]["after_a_message"] == sum(
        row["members"] for row in kinds.values() if row["must_end"] == "reconnected" and sum(row["must_get"].values())
    )
    assert found["reach"]["clicks"] == found["reach"]["reached"] > 30
    assert {row["came"] for row in found["reach"]["rows"]} == {"at once", "after 3 days", "after a reminder"}
    assert {row["scanner"] for row in found["reach"]["rows"]} > {"press", "nobody"}
    for scanner in ("get", "head", "browser"):
        assert found["scans"][scanner]["links"] > 0 == found["scans"][scanner]["consent_pages"], scanner
    assert found["scans"]["press"]["consent_pages"] > 0
    (down,) = found["mx_down"]
    assert (down["saw"], down["then"]) == ("try again in a moment", "a live consent page")
    assert kinds["in quiet hours"]["first_day"].keys() == {"due"}
    told = [day["day"] for day in found["days"] if day["mails"] or day["pushes"]]
    assert told == [0, 0.12, 3.17, 7.17, 14.17, 30.17]
    (end,) = [day for day in found["days"] if day["exhausted"]]
    assert end["day"] == 37.17
    assert end["exhausted"] == sum(
        row["members"] for row in kinds.values() if row["must_end"] == "exhausted" and sum(row["must_get"].values())
    )


def test_up_runs_everything_and_brings_its_own_broker(machine: Any, acceptance: Any) -> None:
    rows, csv = acceptance.cast_of(20)
    machine("migrate")
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows)
    machine("import", "members.csv")
    del machine.environment["REDIS_URL"]
    machine.environment["SWEEP_SCHEDULE"] = "* * * * *"
    port = acceptance.free_port()

    up = machine.start("up", sys.executable, "-m", "worker", "up", "--children", "1", "--flower-port", str(port))
    acceptance.wait_until(lambda: machine.mails()["count"] == 20, seconds=90, what="beat's first sweep and its mails")
    up.terminate()
    assert up.wait(90) == 0
    log = (machine.folder / "up.log").read_text()
    assert "Traceback" not in log
