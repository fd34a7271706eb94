"""``reconnect sweep`` at a given moment, imports done before: ``python -m tests.faults.sweep_at FILE``.

It makes ``FILE.<pid>`` once it is ready, and begins at the Unix time that ``FILE`` holds as soon as there is such a file.
"""

import os
import sys
import time
from pathlib import Path

import worker.app  # noqa: F401 - what a sweep imports when it runs
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
