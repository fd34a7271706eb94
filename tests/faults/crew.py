"""A supervisor of the worker, and cron: they keep the system running while a test breaks it."""

import os
import signal
import subprocess
import threading
from contextlib import suppress
from typing import Self

import psutil

from tests.faults.schedule import Schedule
from tests.machine import Machine, Ran, Running, wait_until


class Worker:
    """A worker under a supervisor, which restarts it as soon as its main process has ended, as systemd does.

    Celery's main process also ends by itself if a child is killed while the child starts.
    """

    def __init__(
        self,
        machine: Machine,
        schedule: Schedule,
        *,
        children: int = 2,
        name: str = "worker",
        environment: dict[str, str] | None = None,
        loglevel: str | None = None,
    ) -> None:
        self._loglevel = loglevel
        self._machine, self._schedule, self._name, self._children = machine, schedule, name, children
        self._environment = environment
        self._known: dict[int, psutil.Process] = {}
        self._enough = threading.Event()
        self.process = self._start(wait=True)
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()

    def _start(self, *, wait: bool) -> Running:
        return self._machine.start_worker(
            self._children, self._name, wait=wait, environment=self._environment, loglevel=self._loglevel
        )

    def _supervise(self) -> None:
        while True:
            code = self.process.wait()
            if self._enough.is_set():
                return
            self._schedule.note(f"main {self.process.pid} ended ({code}) and is started again")
            self.process = self._start(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.process.terminate()
        self._supervisor.join(60)

    def its_children(self) -> list[psutil.Process]:
        """The child processes, which run the tasks."""
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []
        self._known |= {child.pid: child for child in children}
        return children

    def kill_a_child(self) -> None:
        """Send SIGKILL to one child; Celery starts another."""
        if children := self.its_children():
            child = self._schedule.rng.choice(children)
            with suppress(psutil.NoSuchProcess):
                child.kill()
            self._schedule.note(f"killed child {child.pid}")

    def kill_main(self) -> None:
        """Send SIGKILL to the main process."""
        self.its_children()
        self.process.kill()
        self._schedule.note(f"killed main {self.process.pid}")

    def stop(self, *, group: bool = False, within: float = 30.0) -> None:
        """Send SIGTERM to the main process or to its whole group, and wait until all have ended. They are not restarted."""
        children = self.its_children()
        self._enough.set()
        self._schedule.note(f"SIGTERM to {'the group of ' if group else ''}main {self.process.pid}")
        if group:
            os.killpg(self.process.pid, signal.SIGTERM)
        else:
            self.process.terminate()
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not stop within {within:.0f} s of SIGTERM") from None
        wait_until(lambda: not any(map(is_alive, children)), what="the end of its children")

    def expect_no_orphans(self, *, within: float = 30.0) -> None:
        """Wait until every child whose main process is gone has ended by itself. Nothing else would end it."""

        def orphans() -> list[int]:
            ours = {child.pid for child in self.its_children()}
            return [pid for pid, child in self._known.items() if pid not in ours and is_alive(child)]

        wait_until(lambda: not orphans(), seconds=within, what=f"the end of orphans {orphans()}")


def is_alive(process: psutil.Process) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Cron:
    """Runs ``reconnect sweep`` every few seconds for as long as the block lasts."""

    def __init__(self, machine: Machine, *, every: float, environment: dict[str, str] | None = None) -> None:
        self._machine = machine
        self._every = every
        self._environment = environment
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cron", daemon=True)
        self.ran: list[Ran] = []

    def _run(self) -> None:
        while not self._enough.is_set():
            self.ran.append(self._machine("sweep", environment=self._environment, timeout=120))
            self._enough.wait(self._every)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(120)

    def expect_plain_words(self) -> None:
        """Assert that every sweep exited with 0 or 1 and printed no traceback."""
        for ran in self.ran:
            assert ran.code in {0, 1}, ran
            assert "Traceback" not in ran.err, ran.err
