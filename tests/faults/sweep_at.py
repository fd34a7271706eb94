"""``reconnect sweep`` at a given moment, with all imports done before: ``python -m tests.faults.sweep_at FILE``.

It writes ``FILE.<pid>`` when it is ready. Then it waits for ``FILE``, which contains a Unix time, and sweeps at that time.
"""

import os
import sys
import time
from pathlib import Path

import worker.app  # noqa: F401 - a sweep imports it when it runs
from tests.machine import wait_until
from worker.cli import main

if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.with_name(f"{file.name}.{os.getpid()}").touch()
    wait_until(file.exists, seconds=120, what="the moment's announcement")
    moment = float(file.read_text())
    wait_until(lambda: time.time() >= moment, seconds=120, what="the moment", grain=0.002)
    sys.argv[1:] = ["sweep"]
    main()
