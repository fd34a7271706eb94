"""Is the device token bad, or is a setting wrong?

APNs answers ``BadDeviceToken`` for a bad device token. If ``APNS_SANDBOX`` or ``APNS_TOPIC`` is wrong, it gives the same answer for
every good one. So the first five refused devices in a row are disabled, and at the sixth the outcome is :class:`ChannelDown`. A wrong
setting disables at most five devices in each process. An accepted message resets the count.

Weakness: if all due device tokens really are bad, the channel stays down until a good one is due.
"""

from worker.channels import BadAddress, ChannelDown, Outcome, Sent

#: Devices in a row that are disabled before the channel is down.
MOST = 5


class DoubtfulTokens:
    """Counts the devices that were refused since the last accepted message."""

    def __init__(self, *, limit: int = MOST) -> None:
        self._limit = limit
        self._in_a_row = 0

    def attribute(self, outcome: Outcome) -> Outcome:
        """``outcome``, or :class:`ChannelDown` if too many devices in a row were refused."""
        if isinstance(outcome, Sent):
            self._in_a_row = 0
        elif isinstance(outcome, BadAddress) and outcome.doubtful:
            if self._in_a_row >= self._limit:
                return ChannelDown(code=outcome.code)
            self._in_a_row += 1
        return outcome
