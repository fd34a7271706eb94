"""A fault of the whole bank, not of one member: a share of all requests meets it before anything else is looked at."""

import random
from dataclasses import dataclass, field
from typing import Literal

from worker.sandbox.ledger import Endpoint
from worker.sandbox.script import WINDOW_ONLY, Step


@dataclass(frozen=True, kw_only=True)
class UpstreamFault:
    """Strikes ``share`` of the requests with one of ``steps``, by random numbers that the same seed throws alike."""

    steps: tuple[Step, ...]
    share: float = 1.0
    seed: int = 0
    on: Literal["window", "read", "all"] = "all"
    _rng: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rng", random.Random(self.seed))

    def strike(self, endpoint: Endpoint) -> Step | None:
        """The step that this request meets instead of its answer, if any."""
        if self.on not in ("all", endpoint) or self._rng.random() >= self.share:
            return None
        step = self._rng.choice(self.steps)
        return None if endpoint == "read" and step.kind in WINDOW_ONLY else step
