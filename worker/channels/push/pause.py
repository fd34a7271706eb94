"""What keeps a whole channel still for a while: a push service that said "not now" to us, not to one device."""

import time
from collections.abc import Callable
from dataclasses import replace

from worker.channels import Outcome, TryLater

#: Seconds to wait where the service does not say how many; FCM's documentation asks for a minute after 429.
USUAL_PAUSE = 60.0


class Pause:
    """Begins with an outcome that speaks of the whole channel; until it is over, that outcome answers for every message."""

    def __init__(self, *, usual: float = USUAL_PAUSE, clock: Callable[[], float] = time.monotonic) -> None:
        self._usual = usual
        self._clock = clock
        self._until = float("-inf")
        self._why = TryLater(code="paused", whole_channel=True)

    def holds(self) -> TryLater | None:
        """The outcome for a message that would be sent now, if it must not be."""
        left = self._until - self._clock()
        # It was not asked anew, so this is no further refusal.
        return replace(self._why, after=left, refusal=None) if left > 0 else None

    def note(self, outcome: Outcome) -> Outcome:
        """Take in what became of a message; gives it back, with the seconds to wait where the channel now pauses.

        Answers that come side by side lengthen a pause and never shorten it.
        """
        if not isinstance(outcome, TryLater) or not outcome.whole_channel:
            return outcome
        wait = self._usual if outcome.after is None else outcome.after
        until = self._clock() + wait
        if until > self._until:
            self._until, self._why = until, outcome
        return replace(outcome, after=wait)
