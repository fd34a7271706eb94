"""A full or a read-only disk for one process and its children.

Where this user may create a mount namespace, the process gets a small file system of its own, which ends with it. Everywhere, a
limit on the size of files or the file's permissions can be used instead.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

#: ``mount``: a real file system, full or read-only. ``limit``: a limit or permissions, which need no rights.
WAYS = ["limit"]
if sys.platform == "linux" and not subprocess.run(
    ["unshare", "--map-root-user", "--mount", "true"], check=False, capture_output=True
).returncode:  # fmt: skip
    WAYS.append("mount")

_FILE = "reconnect.db"


def full(way: str, folder: Path, *, left: int) -> list[str]:
    """The words to put before a command so that it has ``left`` bytes free in ``folder``, which contains a database."""
    room = (folder / _FILE).stat().st_size + left
    if way == "limit":
        return ["prlimit", f"--fsize={room}"]
    return _with_own_mount(folder, f"size={room}")


def read_only(way: str, folder: Path) -> tuple[list[str], str]:
    """The words to put before a command so that it cannot write the database, and the ``DATABASE_URL`` for it."""
    url = f"sqlite:///{folder / _FILE}"
    if way == "limit":
        (folder / _FILE).chmod(0o444)
        # Root may write a file of any mode, so the command is started without root's capabilities.
        return ([] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]), url
    return _with_own_mount(folder, "size=64m", "mount -o remount,ro {disk}"), url


def _with_own_mount(folder: Path, options: str, *then: str) -> list[str]:
    """Run the command on a copy of the folder, on its own file system. Afterwards its files are copied to ``FOLDER-kept``."""
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
