"""From MX's webhook to the mail, and from the user's return to the end of the reconnection: real processes, and no sweep."""

import base64
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.records import Records
from tests.faults.web import Web
from tests.machine import PATIENCE, Machine, cast_of, environment_for, wait_until

AUTH = "mx:webhook-secret"
#: The most that each of the two may take while nothing else is due (seconds).
WANTED = 5.0


@pytest.fixture
def machine(tmp_path: Path, redis_url: str) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path, environment_for(tmp_path, redis_url), stack)


@pytest.mark.timeout(180)
def test_a_break_is_told_and_a_return_is_closed_within_seconds_of_their_webhooks(machine: Machine) -> None:
    rows, _ = cast_of(3, connection_status="CONNECTED")
    lines = [f"{row['user_guid']},{row['member_guid']},CONNECTED,person{n}@mail.example" for n, row in enumerate(rows)]
    (machine.folder / "members.csv").write_text("\n".join(["user_guid,member_guid,connection_status,email", *lines]))
    machine.start_sandbox(rows, "--aggregation-seconds", "0.5")
    web = Web(machine, MX_WEBHOOK_AUTH=AUTH)
    for ran in machine.each("migrate", "import members.csv"):
        assert ran.code == 0, ran.out
    machine.start_worker(2)
    web.start()
    records = Records(machine.environment["DATABASE_URL"])
    machine.control(webhooks={"url": f"{web.base}/webhooks/mx", "auth": AUTH})

    def took(done: Any, what: str) -> float:
        began = time.monotonic()
        wait_until(done, what=what)
        return time.monotonic() - began

    broken, other, _ = (row["member_guid"] for row in rows)
    machine.control(member=other, connection_status="CONNECTED")  # nothing changes, so no mail
    machine.control(member=broken, connection_status="DENIED")
    to_mail = took(lambda: machine.mails()["count"], "the mail")
    wait_until(lambda: records.all("SELECT 1 FROM reconnections WHERE state = 'notified'"), what="its record")
    machine.control(consent=broken)
    back = "SELECT 1 FROM reconnections WHERE state = 'reconnected'"
    to_end = took(lambda: records.all(back), "the end") - 0.5
    print(f"to the mail {to_mail:.1f} s, to the end {to_end:.1f} s")
    assert (to_mail < WANTED * PATIENCE, to_end < WANTED * PATIENCE) == (True, True), (to_mail, to_end)
    assert machine.mails()["count"] == 1
    assert records.one("SELECT count(*) FROM reconnections") == 1
    assert not records.all("SELECT 1 FROM sweeps")
    log = (machine.folder / "web-1.log").read_text() + (machine.folder / "worker.log").read_text()
    assert "Traceback" not in log
    assert not [word for word in ("person0@", "webhook-secret") if word in log]
    records.close()


@pytest.mark.timeout(120)
def test_what_comes_while_redis_is_away_is_stored_and_the_next_sweep_wakes_the_stage(machine: Machine) -> None:
    web = Web(machine, MX_WEBHOOK_AUTH=AUTH)
    assert machine("migrate").code == 0
    redis = machine.environment["REDIS_URL"]
    machine.environment["REDIS_URL"] = "redis://127.0.0.1:9/0"
    web.start()
    machine.environment["REDIS_URL"] = redis
    body = b'{"type": "MEMBER", "action": "UPDATED", "guid": "MBR-a", "user_guid": "USR-a"}'
    credentials = base64.b64encode(AUTH.encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {credentials}"}
    request = urllib.request.Request(f"{web.base}/webhooks/mx", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 204
    wait_until(lambda: b"nobody_woken" in (machine.folder / "web-1.log").read_bytes(), what="the wake that fails")
    assert "woke sync 1" in machine("sweep").out
