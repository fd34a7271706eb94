"""The ``reconnect`` command as an operator runs it."""

import json
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest


def test_init_writes_a_commented_env_that_only_its_owner_reads(machine: Any) -> None:
    ran = machine("init")
    assert ran.code == 0
    path = machine.folder / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    for name in ("DATABASE_URL", "MX_API_KEY", "URI_KEYS", "REMINDER_DAYS", "SMTP_URL", "PUBLIC_BASE_URL"):
        assert f"{name}=" in text
    defer = machine("init")
    assert defer.code == 2
    assert len(defer.err.strip().splitlines()) == 1


def test_the_env_that_init_wrote_is_enough_once_the_two_keys_are_filled_in(machine: Any) -> None:
    machine("init")
    path = machine.folder / ".env"
    bare = {name: machine.environment.pop(name) for name in list(machine.environment)}
    ran = machine("migrate")
    assert ran.code == 2
    assert "MX_API_KEY is missing" in ran.err
    path.write_text(path.read_text().replace("MX_API_KEY=", "MX_API_KEY=k").replace("MX_CLIENT_ID=", "MX_CLIENT_ID=c"))
    assert machine("migrate").code == 0
    assert machine("status").code == 0
    assert (machine.folder / "reconnect.db").exists()
    machine.environment.update(bare)


@pytest.mark.parametrize(
    ("command", "wrong", "says"),
    [
        ("migrate", {"MX_API_KEY": ""}, "MX_API_KEY is missing"),
        ("status", {"URI_KEYS": "short"}, "URI_KEYS: key 1 is not a Fernet key"),
        ("sweep", {"RECONNECT_STATUSES": "DENIED,BROKEN"}, "'BROKEN' is no connection_status"),
        ("doctor", {"MX_BASE_URL": "http://atrium.mx.com"}, "must be https"),
        ("explain MBR-1", {"MX_CLIENT_REDIRECT_URL": "https://app.example/back"}, "only with MX_REFERRAL_SOURCE=APP"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2(machine: Any, command: str, wrong: dict[str, str], says: str) -> None:
    ran = machine(*command.split(), environment=wrong)
    assert ran.code == 2
    assert says in ran.err
    assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "up", "import x.csv", "doctor", "celery"])
def test_an_env_file_that_cannot_be_read_is_one_line_and_exit_2(machine: Any, command: str) -> None:
    (machine.folder / ".env").mkdir()
    if command == "celery":
        process = machine.celery("worker", "worker", "-c", "1")
        code, err = process.wait(60), (machine.folder / "worker.log").read_text()
    else:
        ran = machine(*command.split())
        code, err = ran.code, ran.err
    assert code == 2
    assert err.strip().endswith("settings: .env: cannot be read: Is a directory")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://:pa/s3cr3t#x@127.0.0.1:6379/0"),
        ("DATABASE_URL", "postgresql://app:s3cr3t@db:many/x"),
        ("SMTP_URL", "smtp://app:pa/s3cr3t@mail.example"),
    ],
)
def test_a_url_that_no_library_can_read_shows_no_part_of_its_password(machine: Any, name: str, value: str) -> None:
    process = machine.celery("worker", "worker", "-c", "1", environment={name: value})
    ran = machine("sweep", environment={name: value})
    assert process.wait(60) == ran.code == 2
    for text in ((machine.folder / "worker.log").read_text(), ran.err):
        assert f"settings: {name}: " in text
        assert "s3cr3t" not in text
        assert len(text.strip().splitlines()) == 1


def test_celery_with_wrong_settings_says_the_same_line(machine: Any) -> None:
    machine.environment["URI_KEYS"] = "short"
    process = machine.celery("worker", "worker", "-c", "1")
    assert process.wait(30) == 2
    text = (machine.folder / "worker.log").read_text()
    assert "URI_KEYS: key 1 is not a Fernet key" in text
    assert "Traceback" not in text


def test_without_a_schema_the_commands_say_what_to_run(machine: Any) -> None:
    ran = machine("sweep")
    assert ran.code == 1
    assert ran.err.strip().endswith("run `reconnect migrate`")
    assert len(ran.err.strip().splitlines()) == 1


def test_an_import_names_each_bad_line_and_takes_the_rest(machine: Any) -> None:
    machine("migrate")
    (machine.folder / "members.csv").write_text(
        "user_guid,member_guid,connection_status,email,timezone\n"
        "USR-1,MBR-1,DENIED,one@mail.example,Europe/Madrid\n"
        "USR-2,WRONG,DENIED,two@mail.example,\n"
        "USR-3,MBR-3,DENIED,not an address,\n"
        "USR-4,MBR-4,DENIED,four@mail.example,Mars/Olympus\n"
        "USR-5,MBR-5,DENIED\n"
        "USR-6,MBR-6,CONNECTED,six@mail.example,\n"
    )
    ran = machine("import", "members.csv")
    assert ran.code == 1
    assert [line.split(":")[1].strip() for line in ran.err.strip().splitlines()] == [
        "line 3",
        "line 4",
        "line 5",
        "line 6",
    ]
    assert "@" not in ran.err
    assert "Imported 2 rows" in ran.out
    assert machine.json("sweep")["opened"] == 1


def test_a_dry_run_of_an_import_checks_everything_and_writes_nothing(machine: Any) -> None:
    machine("migrate")
    (machine.folder / "members.csv").write_text(
        "user_guid;member_guid;connection_status;colour\nUSR-1;MBR-1;DENIED;red\nUSR-2;WRONG;DENIED;red\n"
    )
    ran = machine("import", "members.csv", "--dry-run")
    assert ran.code == 1
    assert ran.out.strip() == "Would import 1 rows, and wrote nothing, refused 1 (named above)."
    assert [line.removeprefix("members.csv: ") for line in ran.err.strip().splitlines()] == [
        "its cells are separated by semicolons",
        "column 4 'colour' is none of ours and is skipped",
        "line 3: member_guid 'WRONG' is no member GUID; it starts with MBR-",
    ]
    assert machine.json("sweep")["opened"] == 0


def test_an_import_reads_standard_input_whatever_form_it_has(machine: Any) -> None:
    machine("migrate")
    (machine.folder / "a").write_text("user_guid,member_guid,connection_status\nUSR-1,MBR-1,DENIED\n")
    (machine.folder / "b").write_text('[{"user_guid": "USR-2",\n "member_guid": "MBR-2", "connection_status": 2}, 5]')
    for name, code in {"a": 0, "b": 1}.items():
        ran = machine("import", "-", under=["sh", "-c", f'exec "$@" < {name}', "sh"])
        assert ran.code == code, ran.err
        assert "Imported 1 rows" in ran.out
    assert ran.err.strip() == "standard input: line 2: is no JSON object"
    assert machine.json("sweep")["opened"] == 2


def test_importing_again_updates_and_keeps_what_the_file_does_not_have(machine: Any) -> None:
    machine("migrate")
    first, second = machine.folder / "a.csv", machine.folder / "b.jsonl"
    first.write_text(
        "user_guid,member_guid,connection_status,institution_name,email\nUSR-1,MBR-1,CONNECTED,Alder,a@b.example\n"
    )
    second.write_text('{"user_guid": "USR-1", "member_guid": "MBR-1", "connection_status": "DENIED"}\n')
    assert machine("import", "a.csv").code == 0
    assert machine.json("sweep")["opened"] == 0
    assert machine("import", "b.jsonl").code == 0
    assert machine.json("sweep")["opened"] == 1
    found = machine.json("explain", "MBR-1")
    assert found["institution"] == "Alder"
    assert found["contact"].startswith("cannot be told: the channels on which")
    mail = {"SMTP_URL": "smtp://127.0.0.1:9?tls=none"}
    assert machine.json("explain", "MBR-1", environment=mail)["contact"] == "is told by email"


def test_a_dry_run_shows_what_a_sweep_would_do_and_does_nothing(machine: Any) -> None:
    machine("migrate")
    (machine.folder / "m.csv").write_text(
        "user_guid,member_guid,connection_status,error_code\nUSR-1,MBR-1,DENIED,\nUSR-2,MBR-2,,2004\n"
    )
    machine("import", "m.csv")
    plan = machine.json("sweep", "--dry-run")
    assert plan["would_open"] == {"token_revoked": 0, "token_expired": 0, "error_code": 1, "connection_status": 1}
    assert "Would open 2 reconnections" in machine("sweep", "--dry-run").out
    assert sum(machine.json("status")["reconnections"].values()) == 0
    assert machine.json("sweep")["opened"] == 2
    assert machine.json("sweep")["opened"] == 0


def test_a_notice_ahead_of_an_expiry_is_counted_explained_and_shown(machine: Any) -> None:
    machine("migrate")
    soon = datetime.now(UTC) + timedelta(days=3)
    (machine.folder / "m.csv").write_text(
        "user_guid,member_guid,institution_name,connection_status,token_expires_at,email\n"
        f"USR-1,MBR-1,Alder Bank,CONNECTED,{soon.isoformat()},a@mail.example\n"
    )
    machine("import", "m.csv")
    assert "expires_soon" not in machine.json("sweep", "--dry-run")["would_open"]
    on = {"EXPIRY_NOTICE_DAYS": "7,2"}
    assert machine.json("sweep", "--dry-run", environment=on)["would_open"]["expires_soon"] == 1
    assert "Would open 1 reconnections (expires_soon 1)." in machine("sweep", "--dry-run", environment=on).out
    shown = machine("preview", "--user", "USR-1", environment=on)
    assert "will stop receiving data from Alder Bank on" in shown.out
    assert "the notice ahead of an expiry" in shown.err
    assert machine.json("sweep", environment=on)["opened"] == 1
    explained = machine("explain", "MBR-1", environment=on).out
    assert f"picked for a notice: its token expires at {soon:%Y-%m-%d %H:%M}" in explained
    assert f"its token expires {soon:%Y-%m-%d %H:%M}" in explained
    assert machine.json("status")["open_by_reason"] == {"expires_soon": 1}
    assert "Of the open reconnections, 1 are notices ahead of an expiry" in machine("status").out
    assert "will stop receiving data from Alder Bank on" in machine("preview", "--user", "USR-1").out


def test_explain_tells_why_a_member_was_picked_or_skipped(machine: Any) -> None:
    machine("migrate")
    (machine.folder / "m.csv").write_text(
        "user_guid,member_guid,connection_status,is_oauth\nUSR-1,MBR-picked,DENIED,\nUSR-2,MBR-plain,DENIED,false\nUSR-3,MBR-fine,CONNECTED,\n"
    )
    machine("import", "m.csv")
    machine("sweep")
    assert "picked: its status DENIED is in RECONNECT_STATUSES" in machine("explain", "MBR-picked").out
    assert "Next: nothing, while that holds; looked at again at about" in machine("explain", "MBR-picked").out
    assert "is_oauth is false" in machine("explain", "MBR-plain").out
    assert "skipped" in machine("explain", "MBR-fine").out
    unknown = machine("explain", "MBR-nobody")
    assert unknown.code == 1
    assert "not in the database" in unknown.err
    assert machine("explain", "nonsense").code == 2


def test_pause_and_resume_are_the_hand_worked_breaker(machine: Any) -> None:
    machine("migrate")
    (machine.folder / "m.csv").write_text("user_guid,member_guid,institution_code\nUSR-1,MBR-1,alder\n")
    machine("import", "m.csv")
    assert machine("pause", "institution:alder", "--reason", "their maintenance").code == 0
    assert machine.json("status")["pauses"][0]["reason"] == "their maintenance"
    assert "their maintenance" in machine("status").out
    assert machine("resume", "institution:alder").code == 0
    assert machine.json("status")["pauses"] == []
    assert machine("pause", "nonsense").code == 2


def test_sweeping_without_a_broker_opens_the_work_and_says_that_nobody_was_woken(machine: Any) -> None:
    machine("migrate")
    (machine.folder / "m.csv").write_text("user_guid,member_guid,connection_status\nUSR-1,MBR-1,DENIED\n")
    machine("import", "m.csv")
    machine.environment["REDIS_URL"] = "redis://127.0.0.1:9/0"
    ran = machine("sweep")
    assert "opened 1" in ran.out
    assert "no worker could be woken" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "url",
    ["postgresql://nobody:s3cr3t-pw@127.0.0.1:9/x", "sqlite:////nonexistent/folder/x.db"],
    ids=["postgresql", "sqlite"],
)
def test_a_database_that_is_away_is_one_line_without_its_password(machine: Any, url: str) -> None:
    ran = machine("status", environment={"DATABASE_URL": url})
    assert ran.code == 1
    assert len(ran.err.strip().splitlines()) == 1
    assert "s3cr3t" not in ran.err
    assert ran.err.startswith("reconnect: database: ")


def test_doctor_names_what_is_wrong_and_fails(machine: Any) -> None:
    machine("migrate")
    machine.start_sandbox([{"user_guid": "USR-1", "member_guid": "MBR-1"}])
    good = {finding["check"]: finding for finding in json.loads(machine("doctor", "--json").out)}
    assert {name for name, finding in good.items() if finding["ok"] is False} == {"workers"}
    assert good["mx"]["ok"]
    assert good["channels"]["ok"]
    ran = machine("doctor", environment={"MX_API_KEY": "wrong"})
    assert ran.code == 1
    assert "refuses us (http_401): see MX_API_KEY" in ran.out
    assert "wrong" not in ran.out.replace("what is wrong", "")


def test_status_and_explain_tell_who_came_back_how_fast_and_who_was_given_up(machine: Any) -> None:
    machine("migrate")
    assert "Nobody came back in the last 30 days." in machine("status").out
    (machine.folder / "members.csv").write_text(
        "user_guid,member_guid,connection_status\nUSR-1,MBR-told,CONNECTED\nUSR-2,MBR-alone,CONNECTED\n"
    )
    machine("import", "members.csv")
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [  # member, state, outcome, hours from the opening to the end, hours from the newest message to the end
        ("MBR-told", "reconnected", "back", 50.5, 2),
        ("MBR-alone", "reconnected", "no_longer_broken", 1, None),
        ("MBR-unheard", "exhausted", "reminders_exhausted", 888, 168),
        ("MBR-failed", "exhausted", "http_500", 60, None),
    ]
    with sqlite3.connect(machine.folder / "reconnect.db") as database:
        for member, state, outcome, took, told in rows:
            opened, notified = now - timedelta(hours=took), now - timedelta(hours=told) if told else None
            database.execute(
                "INSERT INTO reconnections (member_guid, user_guid, state, reason, broken_since, opened_at, notified_at, closed_at,"
                " outcome, outcome_at) VALUES (?, 'USR-1', ?, 'connection_status', ?, ?, ?, ?, ?, ?)",
                (member, state, str(opened), str(opened), notified and str(notified), str(now), outcome, str(now)),
            )
    database.close()
    returns = machine.json("status")["returns"]
    assert returns == {
        "days": 30,
        "reconnected": 2,
        "after_a_message": 1,
        "median_seconds": pytest.approx((50.5 + 1) / 2 * 3_600, abs=1),
        "median_seconds_after_message": pytest.approx(7_200, abs=1),
    }
    shown = machine("status").out
    assert "In the last 30 days 2 came back, half of them within 1 d 1 h of being found broken; 1 (50 %) after" in shown
    assert "1 given up after the last reminder went unanswered" in shown
    assert "1 given up after every attempt failed" in shown
    explained = machine("explain", "MBR-told").out
    assert "ended as reconnected, 2 d 2 h after it was opened and 2 h after the newest message" in explained
    assert "ended as reconnected, 1 h after it was opened and without a message" in machine("explain", "MBR-alone").out
