"""What is done to the system and when, by random numbers that the same seed throws alike.

Every test gets a :class:`Schedule`. Its seed is ``FAULT_SEED`` or a new one, and both the seed and everything that was done stand
in the report of a test that fails: run it again with that seed and the same things are done in the same order.
"""

import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.machine import wait_until

#: ``make faults`` sets it: larger figures, longer schedules.
LONG = os.environ.get("FAULTS") == "long"


def chosen_seed() -> int:
    """``FAULT_SEED``, or a new seed for this run, which the processes that pytest-xdist starts inherit."""
    seed = os.environ.get("FAULT_SEED") or str(random.SystemRandom().randrange(1_000_000))
    os.environ["FAULT_SEED"] = seed
    return int(seed)


@dataclass(frozen=True)
class Deed:
    """One thing that was done to the system."""

    at: datetime
    what: str


@dataclass
class Schedule:
    """One test's random numbers, and a record of what was done."""

    seed: int
    name: str
    deeds: list[Deed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} {self.name}")
        self._began = datetime.now(UTC)

    def note(self, what: str) -> None:
        """Put on record that this was done right now."""
        self.deeds.append(Deed(datetime.now(UTC), what))

    def pause(self, shortest: float, longest: float) -> None:
        """Let a random while pass: the moment of the next deed."""
        moment = time.monotonic() + self.rng.uniform(shortest, longest)
        wait_until(lambda: time.monotonic() >= moment, seconds=longest + 5)

    def is_near(self, moment: datetime, *, words: Iterable[str], before: timedelta, after: timedelta) -> bool:
        """Whether a deed with one of these words was done from ``before`` ahead of this moment until ``after`` it."""
        words = tuple(words)
        return any(moment - before <= deed.at <= moment + after for deed in self.deeds if deed.what.startswith(words))

    def __str__(self) -> str:
        lines = [f"FAULT_SEED={self.seed} pytest {self.name}"]
        lines += [f"  {(deed.at - self._began).total_seconds():8.3f} s  {deed.what}" for deed in self.deeds]
        return "\n".join(lines)
