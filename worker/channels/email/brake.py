"""What slows the whole pool down: a moment before which nothing is sent, shared by all connections of a process."""

from collections.abc import Callable
from dataclasses import replace

from worker.channels import ChannelDown, Doubt, Outcome, Sent, TryLater

_MOST_DOUBLINGS = 30  # beyond every sensible ``longest``, and still a number


class Brake:
    """Pulled by an outcome that speaks of the whole channel; until it lets go, that outcome answers for every message."""

    def __init__(self, *, first: float, longest: float, clock: Callable[[], float]) -> None:
        """``first`` is the first pause in seconds; each further one in a row is twice as long, up to ``longest``."""
        self._first = first
        self._longest = longest
        self._clock = clock
        self._pulls = 0
        self._until = float("-inf")
        self._why: Outcome | None = None

    def holds(self) -> Outcome | None:
        """The outcome for a message that would be sent now, if it must not be."""
        left = self._until - self._clock()
        if left <= 0 or self._why is None:
            return None
        # The server was not asked anew, so this is no further refusal.
        return replace(self._why, after=left, refusal=None) if isinstance(self._why, TryLater) else self._why

    def note(self, outcome: Outcome) -> Outcome:
        """Take in what became of a message; gives it back, with the seconds to wait where the channel now pauses.

        Connections that were refused side by side count once. A channel that is down or cannot be reached pauses for the
        shortest time only: that keeps a queue of messages from knocking with a wrong password, and the breaker, which every
        process goes by, decides when it is tried again.
        """
        if isinstance(outcome, Sent):
            if self.holds() is None:
                self._pulls = 0
        elif isinstance(outcome, ChannelDown):
            self._pull(outcome, self._first)
        elif isinstance(outcome, TryLater) and outcome.whole_channel:
            if self.holds() is None:
                if outcome.refusal is not None and outcome.refusal.doubt is Doubt.UNREACHABLE:
                    self._pull(outcome, self._first)
                else:
                    self._pull(outcome, min(self._first * 2**self._pulls, self._longest))
                    self._pulls = min(self._pulls + 1, _MOST_DOUBLINGS)
            return replace(outcome, after=max(0.0, self._until - self._clock()))
        return outcome

    def _pull(self, why: Outcome, seconds: float) -> None:
        self._until = self._clock() + seconds
        self._why = why
