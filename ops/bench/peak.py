"""The memory of a process, now and at its highest."""

import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from ops.bench.servers import environment

MIB = 2**20


def peak_of(settings: Mapping[str, str], *arguments: str) -> tuple[float, float]:
    """Run ``reconnect …`` to its end; return its peak memory (MiB) and the seconds it took.

    Linux records the peak itself; elsewhere it is the highest of many samples. ``ru_maxrss`` is wrong here, since a process
    inherits its parent's.
    """
    began, peak = time.monotonic(), 0.0
    command = [sys.executable, "-m", "worker", *arguments]
    with subprocess.Popen(command, env=environment(**settings), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _peak_so_far(process.pid))
            time.sleep(0.01)
    if process.returncode:
        raise RuntimeError(f"reconnect {' '.join(arguments)} failed")
    return peak, time.monotonic() - began


def _peak_so_far(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    with suppress(OSError, psutil.Error):
        if status.exists():
            for line in status.read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return float(line.split()[1]) / 1024
        return float(psutil.Process(pid).memory_info().rss) / MIB
    return 0.0


def held_by(process: psutil.Process) -> float:
    """The memory of a process now (MiB)."""
    return float(process.memory_info().rss) / MIB
