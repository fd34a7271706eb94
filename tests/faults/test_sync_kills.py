"""A sync that is killed several times: all members are stored, and MX is asked again only for the requests under way at a kill."""

import json
import sys
from typing import Any

import pytest

from tests.faults.schedule import LONG
from tests.machine import Machine, wait_until

USERS = 100_000 if LONG else 600
IN_FLIGHT = 200 if LONG else 10
KILLS = 3


def everybody() -> list[dict[str, Any]]:
    """A member for each user, and a second one for every other user."""
    of = [*range(USERS), *range(0, USERS, 2)]
    return [
        {"user_guid": f"USR-{user:06}", "member_guid": f"MBR-{n:06}", "connection_status": "CONNECTED"}
        for n, user in enumerate(of)
    ]


def asked(machine: Machine) -> int:
    """How many pages of users and of members MX was asked for so far."""
    return int(machine.ledger()["lists"])


@pytest.mark.longest
@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("where", ["postgresql", "sqlite"] if LONG else ["postgresql"])
def test_a_sync_that_is_killed_goes_on_where_it_was(machine: Machine, request: Any, where: str) -> None:
    if where == "postgresql":
        machine.environment["DATABASE_URL"] = request.getfixturevalue("postgres").database()
    assert machine("migrate").code == 0
    rows = everybody()
    machine.start_sandbox(rows, "--drop-bodies", *([] if LONG else ["--latency", "0.05"]))
    machine.environment["MX_MAX_CONNECTIONS"] = str(IN_FLIGHT)
    repeated = 0
    for kill in range(1, KILLS + 1):
        process = machine.start(f"sync{kill}", sys.executable, "-m", "worker", "sync")
        part = USERS * kill // (KILLS + 1)
        wait_until(lambda part=part: asked(machine) > part, seconds=600 if LONG else 30, what=f"page {part}")
        assert process.poll() is None, (machine.folder / f"sync{kill}.log").read_text()
        process.kill()
        process.wait()
        # The requests in flight, and those answered in the half second before, which were not stored yet. On a busy machine more.
        repeated += IN_FLIGHT + (2_000 if LONG else 150)
    ran = machine("sync", "--json", timeout=1200 if LONG else 60)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["found"]
    assert (found["users"], found["members"], found["new_members"]) == (USERS, len(rows), len(rows))
    pages = USERS // 1_000 + 1
    assert asked(machine) <= USERS + pages + KILLS + repeated
    machine.control(reset="ledger")
    again = machine("sync", timeout=1200 if LONG else 60)
    assert "nothing changed" in again.out, again.err
    assert asked(machine) == USERS + max(USERS // 1_000, 1)
    status = machine.json("status")["sync"]
    assert (status["phase"], status["found"]) == ("finished", {"users": USERS, "members": len(rows)})
    assert "Last sync" in machine("status").out


def test_it_stops_when_it_is_told_to_and_says_how_far_it_is(machine: Machine) -> None:
    assert machine("migrate").code == 0
    machine.start_sandbox(everybody(), "--drop-bodies", "--latency", "0.2")
    machine.environment["MX_MAX_CONNECTIONS"] = "10"
    process = machine.start("sync", sys.executable, "-m", "worker", "sync")
    wait_until(lambda: asked(machine) > 30, what="a few pages")
    busy = machine("sync")
    assert (busy.code, "is at it" in busy.err) == (1, True)
    process.terminate()
    assert process.wait(60) == 1
    log = (machine.folder / "sync.log").read_text()
    assert "stopped;" in log
    assert "goes on from there" in log
    assert "unfinished" in machine.json("status")["sync"]["says"]
    machine.control(latency=0)
    assert machine("sync").code == 0
    doctor = json.loads(machine("doctor", "--json").out)
    (check,) = [check for check in doctor if check["check"] == "sync"]
    assert check["ok"], check
    assert f"{USERS} users, {USERS + USERS // 2} members" in check["says"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--user", "MBR-1"], 2, "is no GUID of MX; it starts with USR-"),
        (["--member", "USR-1"], 2, "is no GUID of MX; it starts with MBR-"),
        (["--member", "MBR-000001"], 1, "add --user USR-"),
        (["--user", "USR-nobody"], 1, "MX does not list the members of USR-nobody (not_found)"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(machine: Machine, arguments: list[str], code: int, says: str) -> None:
    assert machine("migrate").code == 0
    machine.start_sandbox(everybody()[:5], "--drop-bodies")
    ran = machine("sync", *arguments)
    assert (ran.code, len(ran.err.strip().splitlines())) == (code, 1)
    assert says in ran.err
