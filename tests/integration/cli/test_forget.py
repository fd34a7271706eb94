"""`reconnect forget` asks, erases, and names unknown users in one line."""

import os
import pty
import subprocess
import sys
from typing import Any

from tests.machine import PATIENCE


def _import(machine: Any) -> None:
    rows = [
        "user_guid,member_guid,email",
        "USR-1,MBR-1,one@mail.example",
        "USR-2,MBR-2,two@mail.example",
        "USR-3,MBR-3,two@mail.example",
    ]
    (machine.folder / "m.csv").write_text("\n".join(rows) + "\n")
    assert machine("import", "m.csv").code == 0


def test_users_are_forgotten_by_their_guid_and_by_their_address(machine: Any) -> None:
    _import(machine)
    ran = machine("forget", "USR-1", "--yes")
    assert (ran.code, ran.out) == (0, "USR-1 is forgotten: members 1, users 1.\n")
    assert "Not erased: your application's own" in ran.err
    both = machine.json("forget", "Two@mail.example", "--yes")
    assert set(both["forgotten"]) == {"USR-2", "USR-3"}
    unknown = machine("forget", "USR-1", "--yes")
    assert (unknown.code, unknown.err) == (1, "reconnect: not in the database: USR-1\n")
    nobody = machine("forget", "one@mail.example", "--yes")
    assert (nobody.code, nobody.err) == (1, "reconnect: not in the database: a user with that address\n")


def test_without_a_terminal_it_asks_for_the_option_and_erases_nothing(machine: Any) -> None:
    _import(machine)
    ran = machine("forget", "USR-1")
    assert ran.code == 2
    assert ran.err == "reconnect: forget: there is no terminal to ask on; with --yes it erases without asking\n"
    assert machine("explain", "MBR-1").code == 0
    assert machine("forget", "USR-9").code == 1


def test_on_a_terminal_it_asks_and_no_is_no(machine: Any) -> None:
    _import(machine)
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        ours, theirs = pty.openpty()
        try:
            os.write(ours, answer)
            ran = subprocess.run(
                [sys.executable, "-m", "worker", "forget", "USR-1"], cwd=machine.folder, env=machine._env(), stdin=theirs,
                capture_output=True, text=True, timeout=30 * PATIENCE, check=False,
            )  # fmt: skip
        finally:
            os.close(ours)
            os.close(theirs)
        assert ran.returncode == code, ran.stderr
        assert "members 1, users 1" in ran.stderr
        assert ("is forgotten" in ran.stdout) == (code == 0)
