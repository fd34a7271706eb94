"""Chooses the faults and their moments by random numbers; the same seed gives the same numbers.

Every test gets a :class:`Schedule`. Its seed is ``FAULT_SEED`` or a new one. The report of a failed test shows the seed and all
deeds. A run with that seed does the same deeds in the same order.
"""

import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.machine import wait_until

#: ``make faults FAULTS=long``: more members, longer schedules.
LONG = os.environ.get("FAULTS") == "long"


def chosen_seed() -> int:
    """``FAULT_SEED``, or a new seed for this run. The processes of pytest-xdist inherit it."""
    seed = os.environ.get("FAULT_SEED") or str(random.SystemRandom().randrange(1_000_000))
    os.environ["FAULT_SEED"] = seed
    return int(seed)


@dataclass(frozen=True)
class Deed:
    """One thing that a test did to the system, such as a kill."""

    at: datetime
    what: str


@dataclass
class Schedule:
    """One test's random numbers, and the list of its deeds."""

    seed: int
    name: str
    deeds: list[Deed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} {self.name}")
        self._began = datetime.now(UTC)

    def note(self, what: str) -> None:
        """Record a deed with the present moment."""
        self.deeds.append(Deed(datetime.now(UTC), what))

    def pause(self, shortest: float, longest: float) -> None:
        """Wait for a random time (seconds) until the next deed."""
        moment = time.monotonic() + self.rng.uniform(shortest, longest)
        wait_until(lambda: time.monotonic() >= moment, seconds=longest + 5)

    def is_near(self, moment: datetime, *, words: Iterable[str], before: timedelta, after: timedelta) -> bool:
        """Whether a deed that begins with one of these words was done between ``moment - before`` and ``moment + after``."""
        words = tuple(words)
        return any(moment - before <= deed.at <= moment + after for deed in self.deeds if deed.what.startswith(words))

    def __str__(self) -> str:
        lines = [f"FAULT_SEED={self.seed} pytest {self.name}"]
        lines += [f"  {(deed.at - self._began).total_seconds():8.3f} s  {deed.what}" for deed in self.deeds]
        return "\n".join(lines)
