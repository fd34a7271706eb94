"""A process that ends by itself is restarted, under `up` and under a Procfile."""

import os
import signal
import sys
from typing import Any

import psutil
import pytest

from tests.machine import Machine, cast_of, wait_until
from worker.cli.processes import free_port


@pytest.mark.timeout(60)
def test_what_ends_is_started_again_and_what_is_asked_to_end_or_set_wrongly_is_not(machine: Machine) -> None:
    ran = machine.folder / "ran"
    restarting = (sys.executable, "-m", "worker.restarting", "sh", "-c")
    process = machine.start("restarting", *restarting, f"echo >> {ran}; exit 3")
    said = machine.folder / "restarting.log"
    # Wait for the third end too: a signal during the command would give the command's exit code.
    wait_until(lambda: said.read_text().count("process_ended") >= 3, what="a third end")
    assert ran.read_text().count("\n") >= 3
    process.terminate()
    assert process.wait(10) == 0
    log = said.read_text()
    assert '"how": "exit code 3"' in log
    assert '"starts_again_in": "2 s"' in log
    assert machine.start("wrong", *restarting, "exit 2").wait(20) == 2
    lasting = machine.start("lasting", *restarting, f"trap 'exit 0' TERM; echo up > {ran}; while :; do sleep 0.1; done")
    wait_until(lambda: ran.read_text() == "up\n", what="its start")
    lasting.terminate()
    assert lasting.wait(10) == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_runner_that_signals_the_whole_group_tells_the_command_once(machine: Machine, number: int) -> None:
    said = machine.folder / "said"
    told = f"echo told >> {said}; sleep 0.3; told=1"
    script = f"trap '{told}' TERM INT; echo up > {said}; while [ -z $told ]; do sleep 0.05; done"
    restarting = machine.start("restarting", sys.executable, "-m", "worker.restarting", "sh", "-c", script)
    wait_until(lambda: said.exists() and said.read_text() == "up\n", what="its start")
    os.killpg(restarting.pid, number)
    assert restarting.wait(10) == 0
    assert said.read_text() == "up\ntold\n"


@pytest.mark.longest
@pytest.mark.timeout(300)
def test_up_brings_back_whatever_dies(machine: Machine) -> None:
    rows, csv = cast_of(5)
    assert machine("migrate").code == 0
    (machine.folder / "members.csv").write_text(csv)
    machine.start_sandbox(rows)
    del machine.environment["REDIS_URL"]
    machine.environment["SWEEP_SCHEDULE"] = "* * * * *"
    up = machine.start("up", sys.executable, "-m", "worker", "up", "--children", "1", "--flower-port", str(free_port()))
    verbs = ("worker", "beat", "flower", "valkey")

    def ours() -> dict[str, psutil.Process]:
        """The main processes by their role."""
        found: dict[str, psutil.Process] = {}
        for process in psutil.Process(up.pid).children(recursive=True):
            try:
                command, name = process.cmdline(), process.name()
            except psutil.Error:
                continue
            if "valkey-server" in name:
                found["valkey"] = process
            for verb in verbs[:3]:
                if "celery" in command and verb in command and "worker.restarting" not in command:
                    found.setdefault(verb, process)
        return found

    first = wait_until(lambda: (found := ours()) and len(found) == len(verbs) and found, seconds=60, what="the start")
    log = machine.folder / "up.log"
    wait_until(lambda: " ready." in log.read_text(), seconds=60, what="the worker's start")
    for verb in verbs:
        first[verb].kill()

    def back() -> Any:
        now = ours()
        return len(now) == len(verbs) and all(now[verb].pid != first[verb].pid for verb in verbs)

    wait_until(back, seconds=60, what="the return of all four")
    assert up.poll() is None
    assert machine("import", "members.csv").code == 0
    wait_until(lambda: machine.mails()["count"] == 5, seconds=120, what="the mails of a sweep by the new beat")
    said = log.read_text()
    for name in ("celery worker", "celery beat", "celery flower", "valkey"):
        assert f'"command": "{name}"' in said, name
    up.terminate()
    assert up.wait(90) == 0
