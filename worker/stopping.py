"""How the children of a worker learn that it is asked to stop, or that it is no more.

Celery tells its main process of a SIGTERM and lets the children finish their tasks; a shift, though, should hand back what it
has not begun. So the main process holds the writing end of a pipe that every child watches: it closes the end when a shutdown
begins, and the kernel closes it should the process be killed.

Those who start a worker in a process group (Procfile runners, containers) often send SIGTERM to all of it. A child that took
it at its word would die in the middle of a message, so the first one only says what the pipe says. (Celery's pool sets its own
handlers after ``worker_process_init``, so ours comes with the first task.)
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
    """Once in each process that runs tasks, at its first: the end that becomes readable when it is time to stop."""
    if not _ends:
        return None
    reading, writing, maker = _ends[0]
    if os.getpid() != maker:  # a child; pools without children run tasks in the main process
        with suppress(OSError):
            os.close(writing)  # a copy would keep the pipe open
        signal.signal(signal.SIGTERM, _first_sigterm)
    return reading


def _first_sigterm(_number: int, _frame: object) -> None:
    """Left to the main process; the second is obeyed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
