"""Beat keeps no state between runs, so a clock that was ahead and a damaged schedule file do not stop it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.servers import OwnValkey
from tests.machine import Machine, wait_until

WALL_CLOCK = Path(__file__).parent / "wall_clock"
YEAR = 365 * 86_400


@contextmanager
def beat(machine: Machine, environment: dict[str, str]) -> Iterator[None]:
    process = machine.celery("beat", "beat", "--max-interval", "1", environment=environment)
    yield
    assert process.poll() is None, (machine.folder / "beat.log").read_text()
    process.terminate()
    process.wait(10)


@pytest.mark.timeout(150)
def test_a_clock_that_stood_ahead_once_and_a_damaged_file_stop_no_sweep(
    machine: Machine, own_valkey: OwnValkey
) -> None:
    assert machine("migrate").code == 0
    clock = machine.folder / "clock"
    environment = {
        "SWEEP_SCHEDULE": "* * * * *", "CLOCK_FILE": str(clock), "PYTHONPATH": f"{WALL_CLOCK}:{WALL_CLOCK.parents[2]}",
    }  # fmt: skip
    (machine.folder / "celerybeat-schedule").write_bytes(b"\0garbage" * 1000)
    with redis.Redis.from_url(own_valkey.url) as queue:

        def sent() -> Any:
            return wait_until(lambda: queue.rpop("sweep"), seconds=15, what="a sweep")

        with beat(machine, environment):
            sent()
            clock.write_text(str(YEAR))
            sent()
            clock.write_text("0")
            sent()  # at once
            clock.write_text("61")
            sent()  # and with the next minute
        clock.write_text(str(-YEAR))
        with beat(machine, environment):
            sent()
            clock.write_text("0")
            sent()
            # No worker empties the queue, and beat does not let it grow.
            clock.write_text(str(YEAR))
            wait_until(lambda: queue.llen("sweep"), what="a sweep")
            clock.write_text(str(2 * YEAR))
            wait_until(lambda: b"waits in its queue" in (machine.folder / "beat.log").read_bytes(), what="a word of it")
            assert queue.llen("sweep") == 1
    assert [path.name for path in machine.folder.glob("celerybeat*")] == ["celerybeat-schedule"], "only what was there"


@pytest.mark.timeout(150)
def test_whoever_runs_says_that_sweeps_are_overdue(machine: Machine, populated: Any) -> None:
    """The worker reports it without getting a task from beat, and beat reports it without a worker."""
    records = populated(1)
    records.all("INSERT INTO sweeps (started_at) VALUES ('2026-01-01 00:00:00.000000') RETURNING id")
    machine.start_worker(1)
    with beat(machine, {"REDIS_URL": "redis://127.0.0.1:1/0"}):
        for log in ("worker.log", "beat.log"):
            path = machine.folder / log
            wait_until(lambda path=path: b"sweeps_overdue" in path.read_bytes(), seconds=60, what=f"an error in {log}")
    assert machine("sweep").code == 0
    wait_until(
        lambda: b"sweeps_in_time_again" in (machine.folder / "worker.log").read_bytes(),
        seconds=60,
        what="the end of it",
    )
