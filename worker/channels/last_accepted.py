"""Is a refusal about our credentials, or about one address?

Some refusals name our credentials although one address is the cause: a token of another Firebase project, or an endpoint that a
user made up. If such a refusal counted as "the channel is down", one bad row would stop push for all users, and again at every
probe of the breaker. So the rule is:

- The service accepted one of our messages within the last hour: only this message is retried later.
- It accepted none within the last hour: the channel is down.

If our credentials are the cause after all, other messages are refused too, and the failure streak stops the channel
(``policy/streaks.py``).
"""

import time
from collections.abc import Callable

from worker.channels import ChannelDown, Doubt, Outcome, Refusal, Sent, TryLater

#: Seconds for which an accepted message shows that our credentials are good.
VALID_FOR = 3_600.0


class LastAccepted:
    """When each service last accepted one of our messages."""

    def __init__(self, *, valid_for: float = VALID_FOR, clock: Callable[[], float] = time.monotonic) -> None:
        self._valid_for = valid_for
        self._clock = clock
        self._accepted_at: dict[str, float] = {}

    def attribute(self, service: str, outcome: Outcome, *, may_be_address: bool = True) -> Outcome:
        """``outcome``, or :class:`TryLater` for this message if its address is probably the cause of the refusal.

        ``may_be_address`` is false for refusals of which no address can be the cause.
        """
        if isinstance(outcome, Sent):
            self._accepted_at[service] = self._clock()
        elif isinstance(outcome, ChannelDown) and may_be_address:
            accepted_at = self._accepted_at.get(service)
            if accepted_at is not None and self._clock() - accepted_at < self._valid_for:
                return TryLater(code=outcome.code, refusal=Refusal(outcome.code, Doubt.US))
        return outcome
