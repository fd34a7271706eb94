"""A command imports what it needs: it is not MX's client and Celery that an import of one row waits for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

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
