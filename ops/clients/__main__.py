"""``make clients``: MX's own Python clients against the sandbox.

MX publishes two clients, `mx-platform-python` and `atrium`. If both can list, read and mint at the sandbox, then the sandbox speaks MX's
protocol as MX's own clients understand it. Each client runs in a process, in an environment without the worker.

Exit code 1 if an answer differs from the sandbox's data. Everything is on loopback.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from worker.sandbox.server import DEFAULT_API_KEY, DEFAULT_CLIENT_ID

#: Seconds that the sandbox may take to start, and a client to finish.
_PATIENCE = 60.0

#: The client, the flavour of its requests in the ledger, and the command.
CLIENTS = (
    ("atrium", "atrium", ["ask_atrium.py"]),
    ("mx-platform-python", "platform_2011", ["ask_platform.py"]),
    ("mx-platform-python, v20250224", "platform", ["ask_platform.py", "v20250224"]),
)

out = Console(highlight=False, soft_wrap=True)


def population() -> list[dict[str, Any]]:
    """24 users, which are three pages of ten. One user has twelve members."""
    many = [
        {"user_guid": "USR-0", "member_guid": f"MBR-0-{n}", "institution_code": "alder", "institution_name": "Alder"}
        for n in range(12)
    ]
    many[0] |= {"member_id": "ours-0", "user_id": "u-0", "email": "a@mail.example", "is_oauth": True}
    others = [{"user_guid": f"USR-{n}", "member_guid": f"MBR-{n}", "user_is_disabled": n == 1} for n in range(1, 22)]
    moved = {"user_guid": "USR-moved", "member_guid": "MBR-moved", "script": ["moved:MBR-anew"]}
    none = {"user_guid": "USR-none", "member_guid": "MBR-none", "script": ["unsupported"]}
    return [*many, *others, moved, none]


def problems(got: dict[str, Any], flavour: str, ledger: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The name of each check and its problem; an empty text means none."""
    known = list(dict.fromkeys(row["user_guid"] for row in population()))
    members = [row["member_guid"] for row in population() if row["user_guid"] == "USR-0"]
    wanted: dict[str, Any] = {
        "users": known,
        "pagination": {"current_page": 2, "per_page": 10, "total_entries": 24, "total_pages": 3},
        "members": members,
        "guids": ["MBR-0-0"] * 3,
        "moved": "MBR-anew",
        "disabled": None if flavour == "atrium" else ["USR-1"],
        "own ids": "MBR-0-0" if flavour == "platform" else None,
    }
    for name, value in wanted.items():
        yield name, "" if got[name] == value else f"{got[name]}, not {value}"
    for name, status, says in (
        ("unsupported", 400, "Member cannot use OAuth"),
        ("unknown", 404, ""),
        ("wrong key", 401, ""),
    ):
        error = got[name] or [None, ""]
        yield name, "" if error[0] == status and says in error[1] else f"{error}, not {status} {says}"
    for name in ("member", "status"):
        seen = {key: got[name].get(key) for key in ("guid", "connection_status", "is_being_aggregated")}
        right = {"guid": "MBR-0-0", "connection_status": "DENIED", "is_being_aggregated": False}
        yield name, "" if seen == right else f"{seen}, not {right}"
    whole = {key: got["member"].get(key) for key in ("institution_code", "name", "user_guid", "is_oauth")}
    right = {"institution_code": "alder", "name": "Alder", "user_guid": "USR-0", "is_oauth": True}
    yield "the whole member", "" if whole == right else f"{whole}, not {right}"
    uris = got["uris"]
    fresh = len(set(uris)) == len(uris) and all(uri.startswith("https://bank-alder.") for uri in uris)
    yield "uris", "" if fresh else "not a fresh https URI each"
    minted, spoke = ledger["windows_minted"], list(ledger["flavours"])
    yield "the ledger", "" if (minted, spoke) == (4, [flavour]) else f"{minted} windows, {spoke}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks; return 0 if no problem was found."""
    parser = argparse.ArgumentParser(prog="make clients", description="MX's own clients against the sandbox.")
    parser.add_argument("--python", type=Path, required=True, help="the interpreter that has the clients")
    python = parser.parse_args(arguments).python
    table = Table("", *(name for name, _, _ in CLIENTS))
    cells: dict[str, list[str]] = {}
    for _, flavour, command in CLIENTS:
        with sandbox() as base_url:
            got = _ask(python, command, base_url)
            ledger = _json(f"{base_url}/sandbox/ledger?members=false")
        for name, problem in problems(got, flavour, ledger):
            cells.setdefault(name, []).append(problem)
    for name, found in cells.items():
        table.add_row(name, *(problem or "ok" for problem in found), style="red" if any(found) else None)
    out.print(table)
    bad = sum(bool(problem) for found in cells.values() for problem in found)
    if bad:
        sys.stderr.write(f"clients: {bad} checks failed\n")
    return 1 if bad else 0


def _ask(python: Path, command: Sequence[str], base_url: str) -> dict[str, Any]:
    script, *more = command
    run = subprocess.run(
        [str(python), str(Path(__file__).with_name(script)), base_url, DEFAULT_CLIENT_ID, DEFAULT_API_KEY, *more],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if run.returncode != 0:
        last = run.stderr.strip().splitlines()[-1:]
        raise SystemExit(f"clients: {' '.join(command)} failed: {''.join(last)}")
    got: dict[str, Any] = json.loads(run.stdout)
    return got


@contextmanager
def sandbox() -> Iterator[str]:
    """Run a sandbox with :func:`population`; yield its base URL."""
    with tempfile.TemporaryDirectory(prefix="clients-") as folder:
        file, ready = Path(folder) / "population.jsonl", Path(folder) / "ready.json"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in population()), encoding="utf-8")
        command = [sys.executable, "-m", "worker.sandbox", "--population", str(file), "--drop-bodies"]
        with subprocess.Popen(
            [*command, "--ready-file", str(ready)], stdout=subprocess.DEVNULL, env=dict(os.environ)
        ) as process:
            try:
                deadline = time.monotonic() + _PATIENCE
                while not ready.exists():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit("clients: the sandbox does not start")
                    time.sleep(0.05)
                yield json.loads(ready.read_text(encoding="utf-8"))["base_url"]
            finally:
                process.terminate()


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
        return json.load(response)


if __name__ == "__main__":
    sys.exit(main())
