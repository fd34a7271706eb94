"""A command that names something unknown fails, says that nothing matched, and suggests the nearest known name."""

import sqlite3
from typing import Any

import pytest

MEMBERS = (
    "user_guid,member_guid,institution_code,connection_status,email\n"
    "USR-1a2b3c,MBR-1a2b3c,alder,DENIED,Ann@Mail.Example\n"
    "USR-4d5e6f,MBR-4d5e6f,birch,DENIED,ann@MAIL.example \n"
    "USR-7a8b9c,MBR-7a8b9c,birch,CONNECTED,ben@xn--mnchen-3ya.example\n"
)

#: Command, exit code, words that it prints, words that it must not print.
TYPOS = [
    ("pause institution:nosuch", 1, ["no member is of institution:nosuch", "nothing was paused"], ["did you mean"]),
    ("pause institution:aldre", 1, ["did you mean institution:alder?"], []),
    ("pause institution:ALDER", 1, ["did you mean institution:alder?"], []),
    ("pause channel:emial", 2, ["did you mean channel:email?"], []),
    ("pause everythign", 2, ["did you mean everything?"], []),
    ("resume", 1, ["everything is not paused", "paused are institution:birch"], []),
    ("resume institution:brich", 1, ["institution:brich is not paused; did you mean institution:birch?"], []),
    ("resume mx", 1, ["mx is not paused"], []),
    ("resume outage:alder", 1, ["outage:alder is not paused"], []),
    ("resume delivery:nosuch", 1, ["is not paused"], ["did you mean"]),
    ("retry MBR-nope", 1, ["MBR-nope is not in the database", "Requeued 0"], ["did you mean"]),
    ("retry MBR-1a2b3d", 1, ["MBR-1a2b3d is not in the database; did you mean MBR-1a2b3c?"], []),
    ("retry MBR-1a2b3c", 1, ["MBR-1a2b3c is due"], []),
    ("retry MBR-7a8b9c", 1, ["MBR-7a8b9c is not broken"], []),
    ("retry MBR-1a2b3c --unknown", 1, ["MBR-1a2b3c is due"], []),
    ("retry --exhausted", 1, ["nothing is exhausted"], []),
    ("retry --unknown", 1, ["nothing is unknown"], []),
    ("retry USR-1a2b3c", 2, ["no member GUID"], []),
    ("retry", 2, ["say what"], []),
    ("explain MBR-1a2b3", 1, ["did you mean MBR-1a2b3c?"], []),
    ("explain USR-1a2b3c", 2, ["is a user", "MBR-1a2b3c"], []),
    ("preview --user USR-1a2b3", 1, ["did you mean USR-1a2b3c?"], []),
    ("preview --user USR-1a2b3c --channel emial", 2, ["did you mean email?"], []),
    ("preview --user nobody@mail.example", 1, ["no user has that address"], ["nobody@"]),
    ("preview --user ann@mail.example", 1, ["2 users have that address", "USR-1a2b3c, USR-4d5e6f"], ["@"]),
    ("optout USR-1a2b3", 1, ["did you mean USR-1a2b3c?"], []),
    ("optout nobody@mail.example", 1, ["not in the database: a user with that address"], ["nobody@"]),
    ("optout @mail.example", 2, ["no address that mail can be sent to"], ["@mail"]),
    ("optout ann", 2, ["no user GUID"], []),
    ("bounces nowhere", 2, ["no such folder or file"], []),
    ("import nowhere.csv", 2, ["No such file"], []),
]


@pytest.fixture
def filled(machine: Any) -> Any:
    """Two banks, one of them paused, and two users who share an address."""
    (machine.folder / "m.csv").write_text(MEMBERS)
    for ran in machine.each("import m.csv", "sweep", "pause institution:birch"):
        assert ran.code == 0, ran.out
    return machine


def test_what_is_not_there_fails_and_the_nearest_is_named(filled: Any) -> None:
    for (command, code, says, never), ran in zip(TYPOS, filled.each(*(command for command, *_ in TYPOS)), strict=True):
        text = ran.out
        assert ran.code == code, (command, text)
        assert all(words in text for words in says), (command, text)
        assert not any(words in text for words in never), (command, text)
        assert "Traceback" not in text
    with sqlite3.connect(filled.folder / "reconnect.db") as database:
        assert database.execute("SELECT scope FROM pauses").fetchall() == [("institution:birch",)]
        assert database.execute("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL").fetchone() == (0,)
    database.close()


def test_an_address_means_everybody_who_has_it(filled: Any) -> None:
    both, _, shown, some = filled.each(
        "optout Ann@MAIL.EXAMPLE",
        "optout --undo USR-1a2b3c",
        "preview --user ben@münchen.example",
        "optout BEN@München.example nobody@mail.example USR-1a2b3c",
    )
    assert both.out == "USR-1a2b3c gets no more messages.\nUSR-4d5e6f gets no more messages.\n"
    assert (both.code, shown.code, some.code) == (0, 0, 1)
    assert "USR-1a2b3c gets no more messages.\nUSR-7a8b9c gets no more messages.\n" in some.out
    assert some.out.endswith("not in the database: 1 of the addresses\n")
    with sqlite3.connect(filled.folder / "reconnect.db") as database:
        assert database.execute("SELECT count(*) FROM users WHERE opted_out_at IS NOT NULL").fetchone() == (3,)
    database.close()


def test_of_several_members_those_that_are_left_are_named(filled: Any) -> None:
    with sqlite3.connect(filled.folder / "reconnect.db") as database:
        database.execute(
            "UPDATE reconnections SET state = 'exhausted', closed_at = opened_at WHERE member_guid = 'MBR-1a2b3c'"
        )
    database.close()
    (ran,) = filled.each("retry MBR-1a2b3c MBR-4d5e6f")
    assert ran.code == 1
    assert "Requeued 1 reconnections" in ran.out
    assert ran.out.endswith("retry: not requeued: MBR-4d5e6f is due\n")


def test_a_code_with_spaces_is_paused_and_resumed_and_explain_says_how(filled: Any) -> None:
    with sqlite3.connect(filled.folder / "reconnect.db") as database:
        database.execute("UPDATE members SET institution_code = 'First \u2019Bank' WHERE member_guid = 'MBR-1a2b3c'")
        database.execute(
            "UPDATE reconnections SET institution_code = 'First \u2019Bank' WHERE member_guid = 'MBR-1a2b3c'"
        )
        database.execute("UPDATE members SET institution_code = ' Oak ' WHERE member_guid = 'MBR-7a8b9c'")
    database.close()
    scope = "institution:First \u2019Bank"
    assert filled("pause", scope).out == f"Paused {scope}.\n"
    assert f"`reconnect resume '{scope}'`" in filled("explain", "MBR-1a2b3c").out
    assert filled("resume", scope).out == f"Resumed {scope}.\n"
    for blank in ("institution:", "institution:  "):
        assert filled("pause", blank).code == 2
    assert filled("pause", "institution: Oak ").out == "Paused institution:Oak.\n", "as it is read"
