"""The lines of `status`, `doctor` and `explain` about webhooks of MX."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.machine import Machine

AUTH = {"MX_WEBHOOK_AUTH": "mx:password", "PUBLIC_BASE_URL": "http://127.0.0.1:9"}
INSERT = (
    "sql INSERT INTO hints (key, kind, connection_status, member_guid, received_at, last_received_at, times, state, "
    "next_attempt_at, outcome, read_at) VALUES ({})"
)


def _doctor(machine: Machine, environment: dict[str, str]) -> dict[str, Any]:
    findings = json.loads(machine("doctor", "--json", environment=environment).out)
    return next(finding for finding in findings if finding["check"] == "webhooks")


def _at(minutes: float) -> str:
    return f"'{datetime.now(UTC) + timedelta(minutes=minutes):%Y-%m-%d %H:%M:%S}.000000'"


def test_they_say_when_one_came_last_what_waits_and_what_was_read(machine: Machine) -> None:
    unset, unreachable = _doctor(machine, {}), _doctor(machine, {"MX_WEBHOOK_AUTH": "mx:password"})
    assert (unset["ok"], unset["says"]) == (True, "none are taken: MX_WEBHOOK_AUTH is not set")
    assert (unreachable["ok"], "PUBLIC_BASE_URL" in unreachable["says"]) == (False, True)
    nothing = _doctor(machine, AUTH)
    assert (nothing["ok"], "/webhooks/mx registered at MX?" in nothing["says"]) == (None, True)
    assert "ebhook" not in machine("status").out
    assert "none came within two days" in machine("status", environment=AUTH).out

    read = f"'a', 'CONNECTION_STATUS', 'DENIED', 'MBR-a', {_at(-9)}, {_at(-5)}, 2, 'done', NULL, 'CONNECTED', {_at(-4)}"
    waits = f"'b', 'AGGREGATION', NULL, 'MBR-a', {_at(-20)}, {_at(-20)}, 1, 'due', {_at(-20)}, NULL, NULL"
    unused = f"'c', 'CONSENT_REVOKED', NULL, NULL, {_at(-1)}, {_at(-1)}, 3, 'unused', NULL, 'no_member', NULL"
    member = "INSERT INTO members (member_guid, user_guid, connection_status) VALUES ('MBR-a', 'USR-a', 'CONNECTED')"
    for ran in machine.each(*(INSERT.format(row) for row in (read, unused)), f"sql {member}"):
        assert ran.code == 0, ran.out
    assert _doctor(machine, AUTH)["ok"] is True  # a hint without a member is no fault
    machine.each(INSERT.format(waits))
    late = _doctor(machine, AUTH)
    assert (late["ok"], late["says"].startswith("1 wait to be read since ")) == (False, True)

    (line,) = [line for line in machine("status").out.splitlines() if "ebhook" in line]
    assert line.startswith("Last webhook of MX ")
    assert "1 to be read (since " in line
    assert line.endswith(", 3 not used: no_member.")
    said = machine.json("status")["webhooks"]
    assert (said["configured"], said["waiting"], said["not_used"]) == (False, 1, {"no_member": 3})
    lines = [line for line in machine("explain", "MBR-a").out.splitlines() if "Webhook of MX" in line]
    assert len(lines) == 2
    assert "AGGREGATION: the member is to be read" in lines[0]
    assert "CONNECTION_STATUS DENIED, 2 times: read at " in lines[1]
    assert lines[1].endswith("MX said CONNECTED")
