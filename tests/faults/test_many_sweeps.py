"""Two beats and several cron jobs sweep in the same second: the work is done once."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.comparison import compare
from tests.faults.crew import Worker
from tests.faults.schedule import LONG, Schedule
from tests.machine import Machine, wait_until

CRON_JOBS, MEMBERS, ROUNDS = (10, 5_000, 5) if LONG else (2, 200, 1)
_FINISHED = "SELECT count(*) FROM sweeps WHERE finished_at IS NOT NULL"
WALL_CLOCK = Path(__file__).parent / "wall_clock"


@pytest.mark.longest
@pytest.mark.timeout(900 if LONG else 180)
def test_two_beats_and_several_cron_sweeps_in_one_second_open_every_episode_once(
    machine: Machine, populated: Any, postgres: Any, schedule: Schedule
) -> None:
    records = populated(MEMBERS, "--drop-bodies", url=postgres.database())
    sent = 0

    def by_beat(became: str = "") -> int:
        """How many sweeps of beats were run: those that swept, those that had been "swept already", or both."""
        log = (machine.folder / "worker.log").read_text()
        back = log.count('"report": "swept already"')
        return {
            "": log.count('"event": "sweep"'),
            "swept already": back,
            "swept": log.count('"event": "sweep"') - back,
        }[became]

    with Worker(machine, schedule):
        for result in range(ROUNDS):
            _sweep_at_once(machine, schedule, result)
            sent += sum((machine.folder / f"beat-{result}-{n}.log").read_text().count('"scheduled"') for n in (1, 2))
            wait_until(
                lambda sent=sent, cron=CRON_JOBS * (result + 1): (
                    by_beat() == sent and records.one(_FINISHED) == cron + by_beat("swept")
                ),
                what="the end of the sweeps and of those that the beats sent",
            )
            records.wait_until_nothing_is_unfinished(seconds=60)
    # Each beat sends a sweep at its start and one at the moment. It sends none if one is queued, and a swept minute is not swept again.
    assert records.one("SELECT count(*) FROM sweeps WHERE slot IS NOT NULL") == by_beat("swept") <= 2 * ROUNDS
    assert by_beat("swept already"), "no beat's sweep stood back"
    figures = compare(machine, records, broken=MEMBERS, schedule=schedule, ends=())
    assert figures.reconnections == {"notified": MEMBERS}
    assert figures.notifications == {"sent": MEMBERS}
    assert figures.minted == MEMBERS
    assert records.one("SELECT sum(opened) FROM sweeps") == MEMBERS


def _sweep_at_once(machine: Machine, schedule: Schedule, result: int) -> None:
    """Start cron jobs and beats, choose a moment when all are ready, and wait until all have swept at that moment."""
    start = machine.folder / f"start-{result}"
    jobs = [
        machine.start(f"cron-{result}-{number}", sys.executable, "-m", "tests.faults.sweep_at", str(start))
        for number in range(CRON_JOBS)
    ]
    wait_until(lambda: len(list(start.parent.glob(f"{start.name}.*"))) == CRON_JOBS, seconds=90, what="the cron jobs")
    moment = math.ceil(time.time()) + 20
    if moment % 60 > 55:  # a slot is a minute of the database's clock, and both beats must tick in the same one
        moment += 8
    # On the clock of the beats, a minute begins at the moment.
    clock = machine.folder / f"clock-{result}"
    clock.write_text(str(60 - moment % 60))
    environment = {
        "SWEEP_SCHEDULE": "* * * * *",
        "CLOCK_FILE": str(clock),
        "PYTHONPATH": f"{WALL_CLOCK}:{WALL_CLOCK.parents[2]}",
    }
    beats = [machine.celery(f"beat-{result}-{n}", "beat", environment=environment) for n in (1, 2)]
    start.write_text(str(moment))
    schedule.note(f"two beats and {CRON_JOBS} cron jobs sweep at {moment}")
    for n in (1, 2):
        log = machine.folder / f"beat-{result}-{n}.log"
        wait_until(lambda log=log: "beat: Starting" in log.read_text(), seconds=20, what="the beats' start")
    assert time.time() < moment, "the beats started too late for the moment"
    for job in jobs:
        assert job.wait(60) == 0
    for n in (1, 2):
        log = machine.folder / f"beat-{result}-{n}.log"
        wait_until(lambda log=log: log.read_text().count("scheduled") >= 2, seconds=20, what="the beats' tick")
    for beat in beats:
        beat.terminate()
        beat.wait(20)
