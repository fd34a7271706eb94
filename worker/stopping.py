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

_ends: list[tuple[int, int]] = []


def prepare() -> None:
    """In the main process, before the first fork."""
    _ends[:] = [os.pipe()]


def announce() -> None:
    """In the main process, when a shutdown begins."""
    for _, writing in _ends:
        with suppress(OSError):
            os.close(writing)


def watched() -> int | None:
    """In a child, once after the fork: the end that becomes readable when it is time to stop."""
    if not _ends:
        return None
    reading, writing = _ends[0]
    with suppress(OSError):  # a copy of the writing end would keep the pipe open
        os.close(writing)
    return reading


def outlive_first_sigterm() -> None:
    """In a child, right after the fork: leave the first SIGTERM to the main process, obey the second."""

    def first(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, first)
