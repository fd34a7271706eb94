"""Must the whole channel slow down, or does one message meet that answer alone?

A relay answers 421 to everybody if it wants fewer mails, and a recipient's filter answers 421 to one recipient, always. A push service
answers 429 in both cases. The first kind costs nobody an attempt; the second must, or the message is tried every minute without end,
and pauses the channel each time. Deliver knows from the database which it may be (``Message.only_this_message``).
"""

from dataclasses import replace

from worker.channels import Doubt, Message, Outcome, TryLater


def for_one_message(message: Message, outcome: Outcome) -> Outcome:
    """``outcome``; one that slows the whole channel down concerns this message alone if others were accepted and this one was not."""
    if not (message.only_this_message and isinstance(outcome, TryLater) and outcome.whole_channel and outcome.refusal):
        return outcome
    # If the server cannot be reached, no message is the cause. Without a refusal nothing was sent: the channel is paused.
    return outcome if outcome.refusal.doubt is Doubt.UNREACHABLE else replace(outcome, whole_channel=False)
