"""From MX's webhook to the mail, and from the customer's return to its end: real processes, and no sweep between them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.records import Records
from tests.faults.web import Web
from tests.machine import PATIENCE, Machine, cast_of, environment_for, wait_until

AUTH = "mx:webhook-secret"
#: What each way may take with nothing else due (seconds).
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
    machine.control(member=other, connection_status="CONNECTED")  # what is late or changes nothing is told to nobody
    machine.control(member=broken, connection_status="DENIED")
    to_mail = took(lambda: machine.mails()["count"], "the mail")
    wait_until(lambda: records.all("SELECT 1 FROM reconnections WHERE state = 'notified'"), what="its record")
    machine.control(consent=broken)
    back = "SELECT 1 FROM reconnections WHERE state = 'reconnected'"
    to_end = took(lambda: records.all(back), "the end") - 0.5
    assert (to_mail < WANTED * PATIENCE, to_end < WANTED * PATIENCE) == (True, True), (to_mail, to_end)
    assert machine.mails()["count"] == 1
    assert records.one("SELECT count(*) FROM reconnections") == 1
    assert not records.all("SELECT 1 FROM sweeps")
    log = (machine.folder / "web-1.log").read_text() + (machine.folder / "worker.log").read_text()
    assert "Traceback" not in log
    assert not [word for word in ("person0@", "webhook-secret") if word in log]
    records.close()
