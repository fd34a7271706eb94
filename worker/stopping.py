"""How the children of a worker notice that the worker is to stop, or that its main process died.

On SIGTERM Celery's main process lets the children finish their tasks. A run should do less: finish the rows that it has begun, and
release the others. So every child watches a pipe. The main process closes the writing end when a shutdown begins; the
kernel closes it if the main process is killed. A child that hangs then ends itself after :data:`WITHOUT_MAIN`, because no other process
would end it.

Process groups, containers and systemd units often send SIGTERM to every process, and a closed terminal sends SIGHUP. With the
default handlers a child would die in the middle of a message. So a child obeys these signals only if its main process sent them
(a cold shutdown, a time limit):

1. The main process blocks them around every fork. A child starts with them blocked, so none can kill it early.
2. They stay blocked in the child. A thread waits for each signal and checks who sent it.

A signal handler is not enough: Celery's pool resets a child's handlers after the fork and sets its own later. A signal in between
would kill the child.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

#: The signals that end a process. SIGINT is not among them: Celery's children ignore it.
ENDING = frozenset({signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP})

#: The exit code of a child that its main process ends: 143, as a shell shows a process that SIGTERM ended.
TERMINATED = 128 + signal.SIGTERM

#: A child ends itself this long after its main process died (seconds). A run that is told to stop takes up to 20.
WITHOUT_MAIN = 90.0
#: How often a child checks whether its main process still runs (seconds).
LOOK_EVERY = 5.0


@dataclass
class _Pipe:
    reading: int
    #: ``None`` once it is closed. Closing the number twice could close another file that got the same number.
    writing: int | None
    #: The process that made the pipe: the worker's main process.
    maker: int
    #: Whether the current fork is made by the main process.
    forks: bool = False

    def close_writing(self) -> None:
        writing, self.writing = self.writing, None
        if writing is not None:
            with suppress(OSError):
                os.close(writing)


_pipe: _Pipe | None = None


def prepare() -> None:
    """Make the pipe. Called in the main process, before the first fork."""
    global _pipe  # noqa: PLW0603 - one for each process
    if _pipe is None:
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_in_child)
    _pipe = _Pipe(*os.pipe(), os.getpid())


def announce() -> None:
    """Tell the children to stop. Called in the main process, when a shutdown begins."""
    if _pipe is not None:
        _pipe.close_writing()


def watched() -> int | None:
    """The end of the pipe that becomes readable when the worker is to stop; ``None`` outside of a worker."""
    return _pipe.reading if _pipe is not None else None


def _is_main() -> bool:
    return _pipe is not None and _pipe.maker == os.getpid()


def _block() -> None:
    if _pipe is not None:
        _pipe.forks = _is_main()
    if _is_main():
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _unblock() -> None:
    if _is_main():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _in_child() -> None:
    """Obey the main process from now on. A process that a child forked is left alone.

    The parent's process id does not show who forked: the main process may have died since the fork.
    """
    if _pipe is None or not _pipe.forks:
        return
    _pipe.close_writing()  # this copy would keep the pipe open after the main process closed its own
    threading.Thread(target=_obey_main, args=(_pipe.maker,), name="signals", daemon=True).start()


def _obey_main(main: int) -> None:
    main_seen_at = time.monotonic()
    while not _take_one(main):
        if os.getppid() == main:
            main_seen_at = time.monotonic()
        elif time.monotonic() - main_seen_at > WITHOUT_MAIN:
            break
    os._exit(TERMINATED)  # at once, as the signal itself would; the leases expire


if hasattr(signal, "sigtimedwait"):

    def _take_one(main: int) -> bool:
        """Wait :data:`LOOK_EVERY` for a signal; returns whether the main process sent one."""
        signal_info = signal.sigtimedwait(ENDING, LOOK_EVERY)
        return signal_info is not None and signal_info.si_pid == main

else:  # macOS does not say who sent a signal: the first one is ignored, the second one is obeyed

    def _take_one(main: int) -> bool:  # noqa: ARG001
        signal.sigwait(ENDING)
        signal.sigwait(ENDING)
        return True
