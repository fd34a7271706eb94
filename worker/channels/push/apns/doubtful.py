"""Is it one device, or the wrong environment?

APNs says the same of a device token that is rubbish and of every good one when ``APNS_SANDBOX`` or ``APNS_TOPIC`` is set wrong.
Single devices are disabled. After a few in a row, with no message accepted in between, the channel is down until somebody looks:
a wrong setting costs a process that many devices and not all of them. The next message that is accepted clears the suspicion.

It can be wrong the other way: where all devices that are due are rubbish indeed, they hold the channel until a good one is due too.
"""

from worker.channels import BadAddress, ChannelDown, Outcome, Sent

#: Devices in a row.
MOST = 5


class DoubtfulTokens:
    """Counts refused devices between accepted messages."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._in_a_row = 0

    def assess(self, outcome: Outcome) -> Outcome:
        """``outcome``, or "the channel is down" for one refused device too many."""
        if isinstance(outcome, Sent):
            self._in_a_row = 0
        elif isinstance(outcome, BadAddress) and outcome.doubtful:
            if self._in_a_row >= self._most:
                return ChannelDown(code=outcome.code)
            self._in_a_row += 1
        return outcome
