"""`reconnect events`, and the lines of `status` and `doctor` about events."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.pages import ROOT
from tests.receiver import KEY

ON = {"EVENTS_URL": "http://127.0.0.1:9/hook?key=s3cr3t", "EVENTS_SECRETS": KEY}


def switched_on(machine: Any) -> None:
    machine.environment.update(ON)


def opted_out(machine: Any) -> None:
    rows = "user_guid,member_guid,email\nUSR-1,MBR-1,one@mail.example\n"
    Path(machine.folder / "m.csv").write_text(rows, encoding="utf-8")
    assert machine("import", "m.csv").code == 0
    assert machine("optout", "USR-1").code == 0


def test_events_are_listed_and_shown_by_status_and_doctor(machine: Any) -> None:
    switched_on(machine)
    opted_out(machine)
    listed = machine("events")
    assert listed.code == 0
    assert "Events: 1 wait, the oldest since " in listed.out
    assert "user.opted_out" in listed.out
    assert "USR-1" in listed.out
    found = machine.json("events")
    assert (found["on"], found["waiting"], found["failed"], found["paused"]) == (True, 1, 0, None)
    assert "Events: 1 wait" in machine("status").out
    assert machine.json("status")["events"]["waiting"] == 1
    checks = {check["check"]: check for check in json.loads(machine("doctor", "--json").out)}
    assert checks["events"] == {"check": "events", "ok": True, "says": "127.0.0.1 accepts them, 1 wait"}
    for command in ("events", "status", "doctor"):
        ran = machine(command)
        assert "s3cr3t" not in ran.out + ran.err


def test_an_open_breaker_is_shown_and_can_be_closed_by_hand(machine: Any) -> None:
    switched_on(machine)
    opted_out(machine)
    with closing(sqlite3.connect(machine.folder / "reconnect.db")) as database, database:
        database.execute(
            "INSERT INTO pauses (scope, reason, since, probe_at) VALUES "
            "('events', 'the endpoint accepts no events: http_500', '2026-11-27 01:05:29.000000', '2099-01-01 00:00:00.000000')"
        )
    for command in ("status", "events"):
        assert "the endpoint accepts no events: http_500" in machine(command).out
    checks = {check["check"]: check for check in json.loads(machine("doctor", "--json").out)}
    assert checks["events"]["ok"] is False
    assert checks["events"]["says"].startswith(
        "127.0.0.1: the endpoint accepts no events: http_500; 1 events wait and none is lost"
    )
    assert machine("resume", "events").out == "Resumed events.\n"
    assert machine.json("events")["paused"] is None


def test_replaying_says_what_it_needs(machine: Any) -> None:
    for arguments, says in (
        (["--since", "2026-11-26"], "go with --replay"),
        (["--replay"], "--since MOMENT"),
        (["--replay", "--since", "yesterday"], "is no moment"),
        (["--replay", "--since", "never"], "is no moment"),
    ):
        ran = machine("events", *arguments)
        assert (ran.code, len(ran.err.strip().splitlines())) == (2, 1), ran.err
        assert says in ran.err
    off = machine("events", "--replay", "--failed")
    assert (off.code, off.err.strip()) == (1, "reconnect: events: EVENTS_URL is not set, so nothing can be posted")
    switched_on(machine)
    nothing = machine("events", "--replay", "--since", "2020-01-01")
    assert nothing.code == 1
    assert "none is there to be replayed" in nothing.err


def test_without_events_url_nothing_is_said_of_events(machine: Any) -> None:
    opted_out(machine)
    assert "EVENTS_URL is not set" in machine("events").out
    assert "Events:" not in machine("status").out
    assert machine.json("events", "--schema") == json.loads((ROOT / "docs" / "events.schema.json").read_text("utf-8"))
