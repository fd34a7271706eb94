"""A child of a worker ends after the main process died, whatever the child is doing and whenever that happened."""

import os
import subprocess
import sys

import psutil
import pytest

from tests.machine import ROOT, wait_until

#: A main process with one child, which prints its process id and hangs. The main process dies as soon as it has forked, or 0.3 s later.
MAIN = """
import os, signal, sys, time
from worker import stopping

if sys.argv[1] == "before the child knows it":  # at-fork hooks run in the order of their registration
    main = os.getpid()
    def wait_for_its_end():
        while os.getppid() == main:
            time.sleep(0.01)
    os.register_at_fork(after_in_child=wait_for_its_end)
stopping.WITHOUT_MAIN, stopping.LOOK_EVERY = 0.2, 0.05
stopping.prepare()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    while True:
        time.sleep(60)
if sys.argv[1] == "later":
    time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS cannot wait for a signal with a limit")
@pytest.mark.parametrize("dies", ["before the child knows it", "at once", "later"])
def test_a_child_that_hangs_ends_some_time_after_its_main_process_died(dies: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    main = subprocess.Popen([sys.executable, "-c", MAIN, dies], stdout=subprocess.PIPE, env=environment, text=True)
    assert main.stdout is not None
    with main.stdout:
        child = int(main.stdout.readline())
        main.wait(60)
        wait_until(lambda: not psutil.pid_exists(child), what="the end of the child")
