"""The pause of a whole channel, after its push service asked us to wait (429, 503)."""

import time
from collections.abc import Callable
from dataclasses import replace

from worker.channels import Outcome, TryLater

#: Seconds to wait if the service names none. FCM's documentation asks for a minute after a 429.
USUAL_PAUSE = 60.0


class Pause:
    """A pause of the whole channel. While it lasts, the outcome that began it is the outcome of every message."""

    def __init__(self, *, usual: float = USUAL_PAUSE, clock: Callable[[], float] = time.monotonic) -> None:
        self._usual = usual
        self._clock = clock
        self._until = float("-inf")
        self._why = TryLater(code="paused", whole_channel=True)

    def paused(self) -> TryLater | None:
        """The outcome of a message during the pause; ``None`` if messages may be sent."""
        remaining = self._until - self._clock()
        # Nothing was sent to the service, so the failure streak must not count this.
        return replace(self._why, after=remaining, refusal=None) if remaining > 0 else None

    def note(self, outcome: Outcome) -> Outcome:
        """Note the outcome of a message and return it. If the channel pauses now, the returned outcome has the seconds to wait.

        An outcome during a pause may lengthen the pause, and never shortens it.
        """
        if not isinstance(outcome, TryLater) or not outcome.whole_channel:
            return outcome
        wait = self._usual if outcome.after is None else outcome.after
        until = self._clock() + wait
        if until > self._until:
            self._until, self._why = until, outcome
        return replace(outcome, after=wait)
