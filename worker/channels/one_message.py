"""Must the whole channel slow down, or only one message?

A relay that wants fewer mails answers 421 to every mail. A recipient's filter may answer 421 to each mail to one recipient. A push
service answers 429 in both cases. In the first case no attempt is counted. In the second case it must be counted: otherwise the message
is tried every minute without end, and pauses the channel each time. Deliver finds out from the database which case is likely
(``Message.only_this_message``).
"""

from dataclasses import replace

from worker.channels import Doubt, Message, Outcome, TryLater


def for_one_message(message: Message, outcome: Outcome) -> Outcome:
    """``outcome``. If it slows the whole channel down, but ``only_this_message`` holds, it is changed to concern this message alone."""
    if not (message.only_this_message and isinstance(outcome, TryLater) and outcome.whole_channel and outcome.refusal):
        return outcome
    # If the server cannot be reached, no message is the cause. Without a refusal nothing was sent: the channel is paused.
    return outcome if outcome.refusal.doubt is Doubt.UNREACHABLE else replace(outcome, whole_channel=False)
