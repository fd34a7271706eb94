"""What a refusal says of the whole channel."""

from datetime import datetime, timedelta

import msgspec

from worker.channels import ChannelDown, Doubt, Outcome, Sent, TryLater, Unknown
from worker.policy.channel_choice import EMAIL
from worker.store.deliver_settling import DeliveryResult
from worker.store.notifications.claimed import ClaimedNotification

#: Of messages that are sent side by side, one may be settled as accepted this long before another is settled as refused.
_SAME_RUN = timedelta(minutes=1)


def noted(result: DeliveryResult, outcome: Outcome) -> DeliveryResult:
    """The result, with its kind of refusal, so that the store can count refusals alike."""
    refusal = None if isinstance(outcome, Sent | ChannelDown) else outcome.refusal
    return msgspec.structs.replace(result, refusal=refusal.what[:64], doubt=refusal.doubt) if refusal else result


def serves_us(outcome: Outcome, reason: str) -> bool | None:
    """What the answer to a probe says of a channel that stopped for ``reason``; ``None``: nothing."""
    if isinstance(outcome, Sent):
        return True
    if isinstance(outcome, ChannelDown | Unknown) or (isinstance(outcome, TryLater) and outcome.whole_channel):
        return False
    if outcome.refusal is None:
        return None  # the message was never offered to the server
    return outcome.refusal.doubt is Doubt.MESSAGE and outcome.refusal.what not in reason


def refused_alone(notification: ClaimedNotification, accepted_at: datetime | None) -> bool:
    """Whether a message was refused while its channel accepted others: ``accepted_at``, then or later.

    Once that counted as an attempt, it need not be seen again: on a quiet day no other message follows. If the channel refuses everybody
    after all, the failure streak stops it and gives the attempts back.
    """
    if notification.refused_at is None:
        return False
    return notification.attempts > 0 or (accepted_at is not None and accepted_at > notification.refused_at - _SAME_RUN)


def in_words(channel: str, code: str) -> str:
    """Why a channel stopped at one refusal. A push service's own words are its code."""
    if channel != EMAIL:
        return code
    refused = "login" if code.startswith("auth") else "connection" if code.startswith(("starttls", "tls")) else "sender"
    return f"the mail server refuses our {refused} ({code})"
