"""Restarts a command whenever it ends: ``python -m worker.restarting celery -A worker.app worker …``. `up` and the Procfile use it.

A Procfile runner ends every process when one ends. This restarts the command after 1, 2, 4, … 60 seconds instead, and logs
``process_ended`` with the wait. After a minute of running the waits start at 1 again. systemd does the same with ``Restart=always``.

- SIGTERM and Ctrl-C are passed on; then nothing is restarted. The command gets a process group of its own. Otherwise a runner that
  signals whole groups would signal it twice, and many programs stop at once, without finishing, at the second signal.
- Exit code 2 means wrong settings. A restart would not help, so this exits with 2 too.
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
#: After running this long, the waits start at 1 again (seconds).
WELL_AFTER = 60.0


def keep(command: Sequence[str]) -> int:
    """Run the command until SIGTERM or Ctrl-C; returns the exit code."""
    stop_requested = threading.Event()
    running: subprocess.Popen[bytes] | None = None

    def stop(number: int, _frame: object) -> None:
        stop_requested.set()
        if running is not None:
            running.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    wait = FIRST_WAIT
    while True:
        began = time.monotonic()
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - our own commands
        if stop_requested.is_set():  # the signal came during the start
            running.terminate()
        code = running.wait()
        if stop_requested.is_set():
            return code if code >= 0 else 128 - code
        if code == SettingsError.exit_code:
            return code
        if time.monotonic() - began >= WELL_AFTER:
            wait = FIRST_WAIT
        log.error("process_ended", command=_name(command), how=_how(code), starts_again_in=f"{wait:.0f} s")
        if stop_requested.wait(wait):
            return 0
        wait = min(wait * 2, LONGEST_WAIT)


def _name(command: Sequence[str]) -> str:
    """The program and its subcommand, such as ``celery worker`` or ``reconnect web``."""
    if list(command[1:4]) == ["-m", "worker", "web"]:
        return "reconnect web"
    verbs = [word for word in command[1:] if word in {"worker", "beat", "flower"}]
    return " ".join([Path(command[0]).name if len(verbs) != 1 else "celery", *verbs[:1]])


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code} ({signal.Signals(-code).name})"


if __name__ == "__main__":
    configure_logs()
    sys.exit(keep(sys.argv[1:]))
