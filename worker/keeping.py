"""Keeps a command running: ``python -m worker.keeping celery -A worker.app worker …``, for `up` and the Procfile.

A Procfile runner ends everything when one process ends. This starts what ended again, after 1, 2, 4, … 60 seconds, and after 1
again once it ran for a minute; it says in the log what ended and when it is back. systemd does the same by itself (``Restart=always``).

- SIGTERM and Ctrl-C are passed on, and what ends then is not started again. The command has a process group of its own: a runner that
  signals whole groups would tell it twice, and a program that is told twice stops at once instead of in its own time.
- Exit code 2 means wrong settings: another start would only say so again, so this ends with it.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from worker.errors import SettingsError
from worker.telemetry.logs import configure_logs

log = structlog.get_logger()

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
#: After so long it counts as well (seconds).
WELL_AFTER = 60.0


def keep(command: Sequence[str]) -> int:
    """Run it until it is asked to stop; returns what to exit with."""
    asked = threading.Event()
    running: subprocess.Popen[bytes] | None = None

    def stop(number: int, _frame: object) -> None:
        asked.set()
        if running is not None:
            running.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    wait = FIRST_WAIT
    while True:
        began = time.monotonic()
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - our own commands
        if asked.is_set():  # while it was started
            running.terminate()
        code = running.wait()
        if asked.is_set():
            return code if code >= 0 else 128 - code
        if code == SettingsError.exit_code:
            return code
        if time.monotonic() - began >= WELL_AFTER:
            wait = FIRST_WAIT
        log.error("process_ended", command=_name(command), how=_how(code), starts_again_in=f"{wait:.0f} s")
        if asked.wait(wait):
            return 0
        wait = min(wait * 2, LONGEST_WAIT)


def _name(command: Sequence[str]) -> str:
    """``celery worker``, for instance: the program and what it is to do."""
    verbs = [word for word in command[1:] if word in {"worker", "beat", "flower"}]
    return " ".join([Path(command[0]).name if len(verbs) != 1 else "celery", *verbs[:1]])


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code} ({signal.Signals(-code).name})"


if __name__ == "__main__":
    configure_logs()
    sys.exit(keep(sys.argv[1:]))
