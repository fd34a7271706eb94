"""How the children of a worker learn that it is asked to stop, or that it is no more.

Celery tells its main process of a SIGTERM and lets the children finish their tasks; a run, though, should hand back what it
has not begun. So the main process holds the writing end of a pipe that every child watches: it closes the end when a shutdown
begins, and the kernel closes it should the process be killed.

Those who start a worker in a process group, a container or a unit often send SIGTERM to all of its processes, and a terminal that
is closed sends SIGHUP. A child that took it at its word would die in the middle of a message. So a child obeys the signals of its
main process (a cold stop, a time limit) and no other's:

1. They are blocked over every fork, so a child is born with them blocked and there is no moment at which one could strike.
2. They stay blocked. A thread of the child takes each and looks who sent it.

Celery's pool resets the handlers of a child after the fork and sets its own later: no handler of ours could close that window.
"""

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass

#: What asks a process to end. (Children ignore SIGINT, as Celery has it.)
ENDING = frozenset({signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP})

#: What a child exits with when its main process ends it: as a shell would tell of SIGTERM.
TERMINATED = 128 + signal.SIGTERM


@dataclass
class _Pipe:
    reading: int
    #: ``None`` once it is closed, so that its number is not closed again when it belongs to something else.
    writing: int | None
    #: The process that made it: the worker's main process.
    maker: int

    def close_writing(self) -> None:
        writing, self.writing = self.writing, None
        if writing is not None:
            with suppress(OSError):
                os.close(writing)


_pipe: _Pipe | None = None


def prepare() -> None:
    """In the main process, before the first fork."""
    global _pipe  # noqa: PLW0603 - one of each process
    if _pipe is None:
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_in_child)
    _pipe = _Pipe(*os.pipe(), os.getpid())


def announce() -> None:
    """In the main process, when a shutdown begins."""
    if _pipe is not None:
        _pipe.close_writing()


def watched() -> int | None:
    """In a process that runs tasks: the end that becomes readable when it is time to stop."""
    return _pipe.reading if _pipe is not None else None


def _is_main() -> bool:
    return _pipe is not None and _pipe.maker == os.getpid()


def _block() -> None:
    if _is_main():
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _unblock() -> None:
    if _is_main():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _in_child() -> None:
    """Only what the main process forked: a child's own children, if it has any, are not ours."""
    if _pipe is None or _pipe.maker != os.getppid():
        return
    _pipe.close_writing()  # a copy would keep the pipe open
    threading.Thread(target=_obey_main, args=(_pipe.maker,), name="signals", daemon=True).start()


def _obey_main(main: int) -> None:
    while True:
        if _take_one(main):
            os._exit(TERMINATED)  # at once, as the signal itself would: what the child holds is leased


if hasattr(signal, "sigwaitinfo"):

    def _take_one(main: int) -> bool:
        """Wait for a signal; returns whether the main process sent it."""
        return signal.sigwaitinfo(ENDING).si_pid == main

else:  # macOS does not tell who sent it: the first is left to the main process, the second is obeyed

    def _take_one(main: int) -> bool:  # noqa: ARG001
        signal.sigwait(ENDING)
        signal.sigwait(ENDING)
        return True
