"""A fault of the whole bank: a share of all requests gets it, most kinds of it before credentials or member are checked."""

import random
from dataclasses import dataclass, field
from typing import Literal

from worker.sandbox.ledger import Endpoint
from worker.sandbox.script import WINDOW_ONLY, Step


@dataclass(frozen=True, kw_only=True)
class UpstreamFault:
    """Answers a ``share`` of the requests with a random one of ``steps``. The same seed chooses the same requests and steps."""

    steps: tuple[Step, ...]
    share: float = 1.0
    seed: int = 0
    #: ``read`` strikes lists as well.
    on: Literal["window", "read", "list", "all"] = "all"
    _rng: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rng", random.Random(self.seed))

    def strike(self, endpoint: Endpoint) -> Step | None:
        """The step that replaces this request's answer, if any."""
        is_meant = self.on in ("all", endpoint) or (self.on == "read" and endpoint == "list")
        if not is_meant or self._rng.random() >= self.share:
            return None
        step = self._rng.choice(self.steps)
        return None if endpoint != "window" and step.kind in WINDOW_ONLY else step
