"""The machine and the versions, for the reader of the results."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("aiohttp", "celery", "kombu", "redis", "SQLAlchemy", "psycopg", "aiosmtplib", "cryptography", "aiosqlite")
_RIVALS = ("requests", "gevent", "arq", "taskiq", "taskiq-redis", "uvloop")


def machine(*, postgres: str, broker: str, loop: str) -> dict[str, str]:
    """The machine, the versions and the day."""
    busy = psutil.cpu_percent(interval=2.0)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{os.cpu_count()} cores ({_cpu()}), {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.system()} {platform.release()}; {busy:.0f} % busy with other things at the start",
        "versions": f"Python {platform.python_version()}, PostgreSQL {postgres}, {broker}, "
        + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "rivals": ", ".join(f"{name} {version(name)}" for name in _RIVALS),
        "event loop of the worker and of bare aiohttp": loop,
    }


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    if sys.platform == "linux" and file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()
