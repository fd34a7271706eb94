"""Is a refusal about us, or about one device?

Some refusals that name our credentials have their cause in a device's address: a token of another Firebase project, an
endpoint that a customer made up. Taken for "the channel is down", a single such row would stop push for everybody, again at
every probe. So where a service has accepted a message of ours within the hour, such a refusal holds up that message alone; it
is tried again. If the fault is ours after all, others are refused alike, and the streak stops the channel
(``policy/streaks.py``); or the hour passes without a message accepted.
"""

import time
from collections.abc import Callable

from worker.channels import ChannelDown, Doubt, Outcome, Refusal, Sent, TryLater

#: Seconds for which an accepted message speaks for us.
LASTS = 3_600.0


class Standing:
    """When each push service last accepted a message of ours."""

    def __init__(self, *, lasts: float = LASTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts = lasts
        self._clock = clock
        self._accepted_at: dict[str, float] = {}

    def assess(self, service: str, outcome: Outcome, *, may_be_the_device: bool = True) -> Outcome:
        """``outcome``, or "later, this message alone" for a refusal that is probably the device's."""
        if isinstance(outcome, Sent):
            self._accepted_at[service] = self._clock()
        elif isinstance(outcome, ChannelDown) and may_be_the_device:
            accepted_at = self._accepted_at.get(service)
            if accepted_at is not None and self._clock() - accepted_at < self._lasts:
                return TryLater(code=outcome.code, refusal=Refusal(outcome.code, Doubt.US))
        return outcome
