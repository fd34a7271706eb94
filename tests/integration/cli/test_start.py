"""A command imports only what it needs: an import of one row does not wait for MX's client or Celery."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.machine import ROOT, Machine
from worker import cli

SCRIPT = """
import json, sys
from worker.cli import main
try:
    main()
except SystemExit as end:
    print(json.dumps({"code": end.code, "imported": sorted(sys.modules)}))
"""


def test_every_command_is_found_where_it_is_said_to_be() -> None:
    for module, commands in cli._MODULES.items():
        alone: Any = typer.main.get_command(cli._application([module]))
        assert tuple(alone.commands) == commands
    everything: Any = typer.main.get_command(cli.app)
    assert tuple(everything.commands) == tuple(cli._MODULE_OF)


def test_an_import_waits_for_neither_celery_nor_an_http_client(tmp_path: Path) -> None:
    given = {"MX_API_KEY": "key", "MX_CLIENT_ID": "client", "URI_KEYS": "x" * 43 + "="}
    command = [sys.executable, "-c", SCRIPT, "import", "nowhere.csv"]
    ran = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout)
    assert told["code"] == 2
    assert ran.stderr == "reconnect: import: nowhere.csv: No such file or directory\n"
    assert not {"aiohttp", "aiosmtplib", "jinja2", "redis", "worker.app", "worker.runtime"} & set(told["imported"])


GIVEN = {"MX_API_KEY": "key", "MX_CLIENT_ID": "client", "URI_KEYS": "x" * 43 + "="}


@pytest.mark.parametrize(
    "arguments",
    [
        [b"pause", b"everything", b"--reason", b"x\xff"],
        [b"pause", b"institution:\xff"],
        [b"resume", b"outage:\xff"],
        [b"retry", b"MBR-\xff"],
        [b"explain", b"MBR-\xff"],
        [b"optout", b"\xff@mail.example"],
        [b"import", b"\xff.csv"],
        [b"\xff"],
    ],
)
def test_bytes_that_are_not_utf_8_are_a_wrong_argument(tmp_path: Path, arguments: list[bytes]) -> None:
    command = [sys.executable, "-m", "worker", *arguments]
    ran = subprocess.run(command, cwd=tmp_path, env=GIVEN | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    says = f"reconnect: argument {len(arguments)} holds bytes that are not UTF-8, and is no file\n"
    assert (ran.returncode, ran.stderr.decode()) == (2, says)


def test_a_file_may_be_called_by_any_bytes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.csv")).write_text("nothing")
    command = [sys.executable, "-m", "worker", b"import", b"\xff.csv"]
    ran = subprocess.run(command, cwd=tmp_path, env=GIVEN | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"reconnect: import: line 1: the header lacks")


@pytest.mark.parametrize(
    "command", ["status", "status --json", "sweep --dry-run", "explain MBR-1 --json", "--help", "--version"]
)
def test_output_that_cannot_be_written_is_one_line(machine: Machine, command: str) -> None:
    with sqlite3.connect(machine.folder / "reconnect.db") as database:
        database.execute("INSERT INTO members (member_guid, user_guid) VALUES ('MBR-1', 'USR-1')")
    database.close()
    ran = machine(*command.split(), under=["sh", "-c", 'exec "$@" > /dev/full', "sh"])
    assert ran.code == 1
    assert ran.err == "reconnect: input or output failed: No space left on device\n"


def test_a_reader_that_ended_is_no_error_to_tell(machine: Machine) -> None:
    ran = machine("status", under=["bash", "-c", 'set -o pipefail; "$@" | true', "bash"])
    assert ran.err == ""
