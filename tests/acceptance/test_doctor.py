"""`reconnect doctor` serves as a health check: it fails if no message can be sent, tells what to do, and ends within seconds."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

DUE = "user_guid,member_guid,connection_status,email\nUSR-1,MBR-1,DENIED,one@mail.example\n"


Findings = dict[str, Any]


def _examined(ran: Any) -> tuple[int, Findings]:
    return ran.code, {finding["check"]: finding for finding in json.loads(ran.out)}


def test_it_fails_whenever_somebody_is_due_and_nobody_can_be_told(machine: Any) -> None:
    (machine.folder / "m.csv").write_text(DUE)
    machine.start_sandbox([{"user_guid": "USR-1", "member_guid": "MBR-1"}])
    doctor = "doctor --json"
    (_, at_first, _, without_a_worker) = machine.each("migrate", doctor, "import m.csv", doctor)
    code, found = _examined(at_first)
    assert code == 1
    assert "none answers" in found["workers"]["says"]
    assert "reconnect up" in found["workers"]["says"]
    assert found["sweeps"]["ok"] is None  # nothing to sweep
    code, found = _examined(without_a_worker)
    assert (code, found["sweeps"]["ok"]) == (1, False)
    assert "none yet" in found["sweeps"]["says"]

    machine.start_worker(children=1)
    due = "sql UPDATE reconnections SET state = 'due', next_attempt_at = '2020-01-01 00:00:00.000000'"
    pause = "sql INSERT INTO pauses (scope, reason, since) VALUES ('{}', 'why', '2020-01-01 00:00:00.000000')"
    stops = [
        step
        for scope in ("channel:email", "delivery:email", "everything")
        for step in (pause.format(scope), doctor, "sql DELETE FROM pauses")
    ]
    swept, well, unread, _, nobody, *stopped = machine.each(
        "sweep --wait --timeout 120",
        (doctor, {"EMAIL_REPLY_TO": "help@ledgerly.example"}),
        doctor,
        due,
        (doctor, {"SMTP_URL": ""}),
        *stops,
        "sql UPDATE reconnections SET next_attempt_at = '2999-01-01 00:00:00.000000'",
        "pause channel:email",
        doctor,
        "sql UPDATE sweeps SET started_at = '2020-01-01 00:00:01.000000'",
        doctor,
    )
    assert swept.code == 0, swept.out
    code, found = _examined(well)
    assert code == 0, found
    assert all(finding["ok"] for finding in found.values()), found
    assert _examined(unread)[1]["replies"]["ok"] is None

    # A reminder is due, and no channel can send it.
    code, found = _examined(nobody)
    assert (code, found["telling"]["ok"]) == (1, False)
    assert found["telling"]["says"].startswith("1 is due, and no channel is configured: set SMTP_URL")
    for ran in stopped[1:9:3]:
        code, found = _examined(ran)
        assert (code, found["telling"]["ok"]) == (1, False), found
        assert "1 is due, and every" in found["telling"]["says"]
    # No reconnection is due: then a pause by hand is a hint and no failure.
    code, found = _examined(stopped[11])
    assert (code, found["telling"]["ok"], found["pauses"]["ok"]) == (0, None, None)

    code, found = _examined(stopped[13])
    assert (code, found["sweeps"]["ok"]) == (1, False)
    assert "the last began 2020-01-01 00:00 UTC" in found["sweeps"]["says"]
    assert "see that beat or cron runs" in found["sweeps"]["says"]


@pytest.fixture
def silence() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:

        def take() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    for connection in taken:
        connection.close()


@pytest.mark.parametrize(
    "database", ["postgresql://nobody:pw@127.0.0.1:{port}/x", None], ids=["PostgreSQL too", "SQLite"]
)
def test_it_ends_within_seconds_though_nothing_answers(machine: Any, silence: int, database: str | None) -> None:
    machine("migrate")
    silent = {
        "REDIS_URL": f"redis://127.0.0.1:{silence}/0",
        "MX_BASE_URL": f"http://127.0.0.1:{silence}",
        "SMTP_URL": f"smtp://127.0.0.1:{silence}?tls=none",
    } | ({"DATABASE_URL": database.format(port=silence)} if database else {})
    began = time.monotonic()
    code, found = _examined(machine("doctor", "--json", environment=silent))
    took = time.monotonic() - began
    assert code == 1
    assert took < 45, took  # 12 s, plus the start of a process on a busy machine
    for name in ("broker", "mx", "channels", *(("schema", "database") if database else ())):
        assert found[name]["ok"] is False, found[name]
    if not database:
        assert found["schema"]["ok"]


@pytest.mark.parametrize(
    ("sender", "answers_to", "well"),
    [
        ("Ledgerly <no-reply@ledgerly.example>", "", False),
        ("noreply@ledgerly.example", "", False),
        ("Do.Not_Reply@ledgerly.example", "", False),
        ("ledgerly-noreply@ledgerly.example", "", False),
        ("ne-pas-repondre@ledgerly.example", "", False),
        ("no-responder@ledgerly.example", "", False),
        ("notifications@ledgerly.example", "", False),
        ("help@ledgerly.example", "no-reply@ledgerly.example", False),
        ("no-reply@ledgerly.example", "help@ledgerly.example", True),
        ("hello@ledgerly.example", "", True),
        ("jane.responder@ledgerly.example", "", True),
    ],
)
def test_it_warns_when_a_reply_would_reach_nobody(
    sender: str, answers_to: str, *, well: bool, settings_for: Any
) -> None:
    from worker.cli.channel_checks import examine_replies

    settings = settings_for(smtp_url="smtp://127.0.0.1:9?tls=none", email_from=sender, email_reply_to=answers_to)
    ok, says = examine_replies(settings)
    assert ok is (True if well else None), says
    assert well or "set EMAIL_REPLY_TO" in says


def test_it_tells_whether_the_credentials_are_for_this_flavour(machine: Any) -> None:
    machine.start_sandbox([{"user_guid": "USR-1", "member_guid": "MBR-1"}])
    platform, base = {"MX_API": "platform"}, machine.environment["MX_BASE_URL"]
    wrong = {"MX_API_KEY": "wrong"}
    _, right, refused, elsewhere = machine.each(
        "migrate",
        ("doctor --json", platform),
        ("doctor --json", platform | wrong),
        ("doctor --json", platform | {"MX_BASE_URL": f"{base}/v9"}),
    )
    says = [_examined(ran)[1]["mx"] for ran in (right, refused, elsewhere)]
    assert [finding["ok"] for finding in says] == [True, False, None]
    assert says[0]["says"] == f"{base} accepts the credentials"
    assert "(http_401): see MX_API_KEY and MX_CLIENT_ID, and whether they belong to this MX_API" in says[1]["says"]
    assert "(not_mx)" in says[2]["says"]
    assert machine.ledger()["flavours"].keys() == {"platform"}
