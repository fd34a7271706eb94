"""How the children of a worker learn that it is asked to stop, or that it is no more.

Celery tells its main process of a SIGTERM and lets the children finish their tasks; a shift, though, should hand back what it
has not begun. So the main process holds the writing end of a pipe that every child watches: it closes the end when a shutdown
begins, and the kernel closes it should the process be killed.

Those who start a worker in a process group (Procfile runners, containers) often send SIGTERM to all of it. A child that took
it at its word would die in the middle of a message, so the first one only says what the pipe says.
"""

import os
import signal
from contextlib import suppress

#: The pipe's two ends, and the process that made it.
_ends: list[tuple[int, int, int]] = []


def prepare() -> None:
    """In the main process, before the first fork."""
    _ends[:] = [(*os.pipe(), os.getpid())]


def announce() -> None:
    """In the main process, when a shutdown begins."""
    for _, writing, _ in _ends:
        with suppress(OSError):
            os.close(writing)


def watched() -> int | None:
    """Once in each process that runs tasks: the end that becomes readable when it is time to stop."""
    if not _ends:
        return None
    reading, writing, maker = _ends[0]
    if (
        os.getpid() != maker
    ):  # a child's copy of the writing end would keep the pipe open; pools without children have none
        with suppress(OSError):
            os.close(writing)
    return reading


def outlive_first_sigterm() -> None:
    """In a child, right after the fork: leave the first SIGTERM to the main process, obey the second."""

    def first(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, first)
