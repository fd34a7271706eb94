"""Starts workers and sends SIGTERM to their group in their first moments; prints the result of each as a line of JSON.

``python -m tests.faults.stop_at_start TRIES SEED CHILDREN FOLDER``. One process imports everything and forks a main process for
each try. That costs a tenth of the time of the `celery` command, so a thousand tries are possible. The signal is sent at a random
moment after the first or the last child was forked: while children are forked, initialised, or about to take their first task.

A child writes a line when it starts and another when Celery reports that it ends in order. A child that a signal killed writes no
second line.
"""

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from celery import signals

from worker.app import app

AT_ONCE = 6
BORN, ENDED = b"child born\n", b"child ended in order\n"


def _ended(*, exitcode: int, **_: Any) -> None:
    if exitcode >= 0:  # negative after billiard's own signal handler ended the process
        os.write(1, ENDED)


@dataclass
class Try:
    """One worker, from its start to its end."""

    log: Path
    children: int
    rng: random.Random
    pid: int = 0
    #: When to send the signal. None until enough children were forked.
    at: float | None = None
    sent: bool = False
    known: list[psutil.Process] = field(default_factory=list)

    def start(self) -> None:
        """Fork the main process, which leads its own process group."""
        self.awaited = self.rng.choice([1, self.children])
        self.pause = self.rng.uniform(0, 0.4)
        self.deadline = time.monotonic() + 90
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            with self.log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.register_at_fork(after_in_child=lambda: os.write(1, BORN))
            signals.worker_process_shutdown.connect(_ended, weak=False)
            options = ("-P", "prefork", "-c", str(self.children), "--without-gossip", "--without-mingle")
            app.worker_main(["worker", *options, "-n", self.log.stem])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            os._exit(code)

    def step(self) -> dict[str, Any] | None:
        """Send the signal if it is time; return the result once the worker has ended or its deadline has passed, else None."""
        now = time.monotonic()
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if done or now > self.deadline:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            _, left = psutil.wait_procs(self.known, timeout=10)
            said = self.log.read_bytes()
            return {
                "code": os.waitstatus_to_exitcode(status) if done else None,
                "born": said.count(BORN),
                "killed": said.count(BORN) - said.count(ENDED),
                "left": len(left),
                "log": [line.decode() for line in said.splitlines() if b"exited" in line or b"Traceback" in line],
            }
        if not self.sent:
            if self.at is None and self.log.exists() and self.log.read_bytes().count(BORN) >= self.awaited:
                self.at = now + self.pause
            if self.at is not None and now >= self.at:
                with suppress(psutil.NoSuchProcess):
                    self.known = psutil.Process(self.pid).children()
                os.killpg(self.pid, signal.SIGTERM)
                self.sent = True
        return None


def main() -> None:
    tries, seed, children, folder = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    rng = random.Random(seed)
    waiting = [Try(folder / f"stopped{number}.log", children, rng) for number in range(tries)]
    running: list[Try] = []
    while waiting or running:
        if waiting and len(running) < AT_ONCE:
            running.append(waiting.pop(0))
            running[-1].start()
        for each in list(running):
            if became := each.step():
                running.remove(each)
                print(json.dumps(became), flush=True)
        time.sleep(0.002)


if __name__ == "__main__":
    main()
