"""Exponential backoff for the mail server: after a 421 no connection of this process sends for 5 seconds, then 10, 20, 40, 60."""

from collections.abc import Callable
from dataclasses import replace

from worker.channels import ChannelDown, Doubt, Outcome, Sent, TryLater

_MOST_DOUBLINGS = 30  # 2**30 seconds exceed every ``longest``; without a limit the float would overflow


class Backoff:
    """A pause of the whole channel. While it lasts, the outcome that began it is the outcome of every message."""

    def __init__(self, *, first: float, longest: float, clock: Callable[[], float]) -> None:
        """``first`` is the first pause in seconds; each further one in a row is twice as long, up to ``longest``."""
        self._first = first
        self._longest = longest
        self._clock = clock
        self._doublings = 0
        self._until = float("-inf")
        self._why: Outcome | None = None

    def paused(self) -> Outcome | None:
        """The outcome of a message during the pause; ``None`` if messages may be sent."""
        remaining = self._until - self._clock()
        if remaining <= 0 or self._why is None:
            return None
        # Nothing was sent to the server, so the failure streak must not count this.
        return replace(self._why, after=remaining, refusal=None) if isinstance(self._why, TryLater) else self._why

    def note(self, outcome: Outcome) -> Outcome:
        """Note the outcome of a message and return it. If the channel pauses now, the returned outcome has the seconds to wait.

        - Outcomes that arrive during a pause do not lengthen it: ten connections that get a 421 at once double the next pause once.
        - A channel that is down or unreachable always pauses for the first, shortest time. So a queue of messages does not try
          a wrong password again and again. The breaker, which all processes share, decides when the server is tried again.
        """
        if isinstance(outcome, Sent):
            if self.paused() is None:
                self._doublings = 0
        elif isinstance(outcome, ChannelDown):
            self._pause(outcome, self._first)
        elif isinstance(outcome, TryLater) and outcome.whole_channel:
            if self.paused() is None:
                if outcome.refusal is not None and outcome.refusal.doubt is Doubt.UNREACHABLE:
                    self._pause(outcome, self._first)
                else:
                    self._pause(outcome, min(self._first * 2**self._doublings, self._longest))
                    self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)
            return replace(outcome, after=max(0.0, self._until - self._clock()))
        return outcome

    def _pause(self, why: Outcome, seconds: float) -> None:
        self._until = self._clock() + seconds
        self._why = why
