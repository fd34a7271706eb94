"""Does a refusal concern the whole channel, or one message?"""

from datetime import timedelta

import msgspec

from worker.channels import ChannelDown, Doubt, Outcome, Sent, TryLater, Unknown
from worker.policy.channel_choice import EMAIL
from worker.store.notifications.claimed import ClaimedNotification
from worker.store.refusals import Acceptance
from worker.store.transactions.deliver_results import DeliveryResult

#: A refusal concerns its message alone if the channel accepted at least this many for each that it refused.
_FOR_EACH = 10
#: Messages are sent concurrently. An acceptance that was settled up to this long before a refusal may be of a message sent after it.
_SAME_RUN = timedelta(minutes=1)


def with_refusal(result: DeliveryResult, outcome: Outcome) -> DeliveryResult:
    """The result, with its kind of refusal, so that the store can count refusals alike."""
    refusal = None if isinstance(outcome, Sent | ChannelDown) else outcome.refusal
    return msgspec.structs.replace(result, refusal=refusal.what[:64], doubt=refusal.doubt) if refusal else result


def serves_us(outcome: Outcome, reason: str) -> bool | None:
    """Whether the answer to a probe shows that a channel that stopped for ``reason`` serves us again; ``None``: it shows nothing."""
    if isinstance(outcome, Sent):
        return True
    if isinstance(outcome, ChannelDown | Unknown) or (isinstance(outcome, TryLater) and outcome.whole_channel):
        return False
    if outcome.refusal is None:
        return None  # the message was never offered to the server
    return outcome.refusal.doubt is Doubt.MESSAGE and outcome.refusal.what not in reason


def concerns_only_this_message(notification: ClaimedNotification, channel: Acceptance | None) -> bool:
    """Whether the refusal concerns this message alone. Both must hold:

    1. At most one message of the channel waits because of a refusal, or the channel accepted at least ten for each that waits, within
       the hour. A relay that takes fewer messages than we send refuses more than that, and no attempt is counted.
    2. The channel accepted a message later than a minute before this refusal, or this message has a counted attempt already. After a
       counted attempt no other message need be accepted: on a quiet day there is none.
    """
    if notification.refused_at is None or channel is None:
        return False
    is_one_of_few = channel.refused <= 1 or channel.accepted >= _FOR_EACH * channel.refused
    is_overtaken = channel.last_at is not None and channel.last_at > notification.refused_at - _SAME_RUN
    return is_one_of_few and (is_overtaken or notification.attempts > 0)


def in_words(channel: str, code: str) -> str:
    """Why a single refusal stopped the channel. For a push service it is the code of the refusal."""
    if channel != EMAIL:
        return code
    refused = "login" if code.startswith("auth") else "connection" if code.startswith(("starttls", "tls")) else "sender"
    return f"the mail server refuses our {refused} ({code})"
