"""Disks that are full or read-only, for a single process and what it starts.

A small file system of its own, in a mount namespace that ends with the process, where this user may make one; otherwise a limit on
the size of files, and the file's own permissions.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

#: ``mount``: a real disk, full or read-only. ``limit``: what everybody may have.
WAYS = ["limit"]
if sys.platform == "linux" and not subprocess.run(
    ["unshare", "--map-root-user", "--mount", "true"], check=False, capture_output=True
).returncode:  # fmt: skip
    WAYS.append("mount")

_FILE = "reconnect.db"


def full(way: str, folder: Path, *, left: int) -> list[str]:
    """What to put before a command so that in ``folder``, which holds a database, ``left`` bytes are left to it."""
    room = (folder / _FILE).stat().st_size + left
    if way == "limit":
        return ["prlimit", f"--fsize={room}"]
    return _with_own_mount(folder, f"size={room}")


def read_only(way: str, folder: Path) -> tuple[list[str], str]:
    """What to put before a command so that the database cannot be written, and the ``DATABASE_URL`` to go by."""
    url = f"sqlite:///{folder / _FILE}"
    if way == "limit":
        (folder / _FILE).chmod(0o444)
        # Root may write whatever the file's mode says, unless it starts the command without its powers.
        return ([] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]), url
    return _with_own_mount(folder, "size=64m", "mount -o remount,ro {disk}"), url


def _with_own_mount(folder: Path, options: str, *then: str) -> list[str]:
    """A copy of the folder on a disk of its own; what the command wrote there is copied out again, for the test to see."""
    disk, kept = shlex.quote(str(folder)), shlex.quote(f"{folder}-kept")
    steps = [
        f"rm -rf {kept}",
        f"cp -a {disk} {kept}",
        f"mount -t tmpfs -o {options} none {disk}",
        f"cp -a {kept}/. {disk}/",
        *(step.format(disk=disk) for step in then),
    ]
    script = f'{" && ".join(steps)} && {{ "$@"; code=$?; cp -a {disk}/. {kept}/; exit $code; }}'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
