"""The mail server refuses, defers, disconnects and is slow, and connections break: no mail is sent twice, and the counts agree."""

from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Cron, Worker
from tests.faults.schedule import LONG, Schedule
from tests.faults.wire import Wire
from tests.machine import Machine, wait_until

MEMBERS = 5_000 if LONG else 200

#: By fault: the share of the occasions on which it happens.
_FAULTS = {
    "rcpt:450 4.2.1 busy": 0.06,
    "rcpt:550 5.1.1 nobody here": 0.03,
    "rcpt:550 5.7.1 not from you": 0.03,
    "drop:before-data": 0.05,
    "drop:in-data": 0.03,
    "drop:after-data": 0.05,
    "data:451 4.3.0 later": 0.05,
    "data:554 5.6.0 not this": 0.03,
    "slow:0.3": 0.005,
}


@pytest.mark.timeout(1800 if LONG else 150)
def test_whatever_the_mail_server_does_nobody_is_mailed_twice_and_the_counts_agree(
    machine: Machine, populated: Any, schedule: Schedule
) -> None:
    # Every second user has a phone with the app.
    phone = {
        "device_kind": lambda n: "fcm" if n % 2 else "",
        "device_address": lambda n: f"phone-{n:06}" if n % 2 else "",
    }
    records = populated(MEMBERS, "--drop-bodies", "--phones", str(machine.folder / "phones"), columns=phone)
    machine.sign_up(*(f"phone-{n:06}" for n in range(1, MEMBERS, 2)))
    server = urlsplit(machine.sandbox["smtp_url"]).port
    assert server is not None
    rules = [
        {"fault": fault, "share": share, "seed": schedule.rng.randrange(1_000_000)} for fault, share in _FAULTS.items()
    ]
    with Wire(server, schedule.rng) as wire:
        machine.environment |= {"SMTP_URL": f"smtp://127.0.0.1:{wire.port}?tls=none", "SMTP_CONNECTIONS": "5"}
        wire.disconnect()  # at first the port is closed
        with Worker(machine, schedule), Cron(machine, every=1 if LONG else 2) as cron:
            wait_until(
                lambda: records.one("SELECT count(*) FROM notifications WHERE outcome = 'connect_refused'"),
                what="a refused connection",
            )
            assert records.counts("notifications").keys() <= {"pending", "sending"}
            machine.control(mail_faults=rules)
            wire.share = 0.2
            wire.connect()
            schedule.note("the mail server answers, badly")

            def half_done() -> bool:
                records.pass_time("messages")
                return sum(records.counts("notifications").get(state, 0) for state in ("sent", "unknown")) > MEMBERS / 2

            wait_until(half_done, seconds=900 if LONG else 60, what="half of the mails", grain=1)
            machine.control(mail_faults=[{"fault": "421", "times": 2}, *rules])
            schedule.note("421, twice")

            def all_done() -> bool:
                records.pass_time("messages")
                states, unfinished = records.counts("notifications"), records.unfinished()
                return not states.keys() & {"pending", "sending"} and not unfinished

            wait_until(all_done, seconds=900 if LONG else 60, what="the end of every message", grain=1)
            machine.control(mail_faults=[])
    cron.expect_plain_words()
    figures = compare(machine, records, broken=MEMBERS, schedule=schedule, ends=(), unknown_codes=("data_",))
    by_channel = {
        (row.channel, row.state): row.count
        for row in records.all("SELECT channel, state, count(*) AS count FROM notifications GROUP BY 1, 2")
    }
    print(by_channel, f"{figures.mails} mails, {wire.cut} cuts")
    assert wire.cut
    assert {state for channel, state in by_channel if channel == "email"} == {"sent", "unknown", "failed", "suppressed"}
    assert by_channel["email", "sent"] <= figures.mails <= by_channel["email", "sent"] + by_channel["email", "unknown"]
    # Every address that does not exist is recorded as refused, so it gets no other mail.
    assert records.one("SELECT count(*) FROM users WHERE refused_email = email") == by_channel["email", "suppressed"]
    # Exactly those users got a push message whose mail was refused for good and who have a phone; no user of an `unknown` mail.
    refused = {
        f"phone-{row.user_guid[-6:]}"
        for row in records.all("SELECT user_guid FROM notifications WHERE state IN ('failed', 'suppressed')")
        if int(row.user_guid[-6:]) % 2
    }
    assert machine.pushes() == dict.fromkeys(refused, 1)
    assert by_channel["fcm", "sent"] == len(refused)
