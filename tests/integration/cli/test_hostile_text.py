"""Every command prints data as text, whatever it holds: no markup, no control sequence, no mark that reverses the line."""

import json
import sqlite3
import unicodedata
from typing import Any

import pytest

#: Markup that closes nothing, markup that opens and closes, the name of an emoji; control sequences that clear the screen, ring the bell,
#: begin a line and set the title; marks that reverse or hide the text after them.
HOSTILE = "[/x] [red]Alder[/red] :smile: \x1b[2J\x07\rok\nPaused nothing \x9b0m \x1b]0;t\x07 \u202egnp\u2066 \u061c\u200f \u2028"
#: For the scope of a pause, and for columns of one word.
CODE = "[/x][b]\x1b[2J\u202e"

COMMANDS = [
    "status",
    "explain MBR-1",
    "explain MBR-2",
    "doctor",
    "sweep --dry-run",
    "sweep",
    "preview --user USR-1",
    "preview --user USR-1 --channel fcm",
    "retry MBR-1",
    "optout USR-1",
    "resume institution:[/x]",
    "import hostile.csv",
    "bounces mails",
    f"explain {CODE}",
    f"retry MBR-{CODE}",
    f"optout USR-{CODE}",
    f"preview --user {CODE}",
    f"pause {CODE}",
    f"pause institution:{CODE}",
    f"resume outage:{CODE}",
    f"bounces {CODE}",
    f"import {CODE}",
]


def _unseen(text: str) -> set[str]:
    return {
        c for c in text if c != "\n" and c not in "\u2068\u2069" and unicodedata.category(c)[0] in "CZ" and c != " "
    }


@pytest.fixture
def hostile(machine: Any) -> Any:
    """A machine with such text in every column that a command prints."""
    with sqlite3.connect(machine.folder / "reconnect.db") as database:
        put = database.execute
        put(
            "INSERT INTO users (user_guid, email, locale, timezone) VALUES ('USR-1', 'a@mail.example', ?, ?)",
            (CODE, CODE),
        )
        put("INSERT INTO devices (user_guid, device_kind, device_address) VALUES ('USR-1', ?, ?)", (CODE, HOSTILE))
        for number in (1, 2):
            values = (f"MBR-{number}", CODE, HOSTILE, "DENIED" if number == 1 else CODE)
            put(
                "INSERT INTO members (member_guid, user_guid, institution_code, institution_name, connection_status) "
                "VALUES (?, 'USR-1', ?, ?, ?)", values,
            )  # fmt: skip
        at = "2026-01-01 00:00:00.000000"
        for state, closed in (("due", None), ("exhausted", at)):
            put(
                "INSERT INTO reconnections (member_guid, user_guid, institution_code, state, reason, broken_since, opened_at, closed_at, "
                "next_attempt_at, outcome, outcome_at, lease_worker, moved_to) VALUES ('MBR-1', 'USR-1', ?, ?, 'connection_status', ?, ?, ?, ?, ?, ?, ?, ?)",
                (CODE, state, at, at, closed, at, HOSTILE[:60], at, HOSTILE[:60], f"MBR-{CODE}"),
            )  # fmt: skip
        for scope in (f"institution:{CODE}", f"outage:{CODE}", "institution:[/x]"):
            put("INSERT INTO pauses (scope, reason, since) VALUES (?, ?, ?)", (scope, HOSTILE, at))
    database.close()
    (machine.folder / "hostile.csv").write_text(
        f"user_guid,member_guid,email,channel\nUSR-{CODE},MBR-3,b@mail.example,\nUSR-4,MBR-4,c@mail.example,{CODE}\n",
        encoding="utf-8",
    )
    (machine.folder / "mails").mkdir()
    (machine.folder / "mails" / "[red]\x1b[2J").write_bytes(b"\x00[/x]\x1b[2J")
    machine.environment |= {"SMTP_URL": "smtp://127.0.0.1:9?tls=none"}
    return machine


def test_no_command_obeys_what_data_says(hostile: Any) -> None:
    printed = {command: ran.out for command, ran in zip(COMMANDS, hostile.each(*COMMANDS), strict=True)}
    for command, text in printed.items():
        assert "Traceback" not in text, (command, text)
        assert not _unseen(text), (command, _unseen(text))
    for command in ("status", "explain MBR-1", "doctor"):
        assert "[/x] [red]Alder[/red] :smile: \\x1b[2J" in printed[command], printed[command]


def test_json_reads_as_what_is_stored_and_shows_nothing_to_obey(hostile: Any) -> None:
    status, *others = hostile.each("status --json", "explain MBR-1 --json", "preview --user USR-1 --json")
    for ran in (status, *others):
        assert ran.code == 0, ran.out
        assert not _unseen(ran.out)
    assert json.loads(status.out)["pauses"][0]["reason"] == HOSTILE


def test_a_reason_in_brackets_is_shown_as_it_was_given(machine: Any) -> None:
    assert machine("pause", "--reason", "[their maintenance] [/x] :bomb:").code == 0
    assert "[their maintenance] [/x] :bomb:" in machine("status").out
