"""The texts of an explanation: what a member waits for, and why until that moment."""

from datetime import datetime

import msgspec

from worker.policy.cadence import CadencePosition
from worker.store.members import MUTED


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the member's work waits for."""

    #: A short word, mostly the outcome that the stage would record.
    code: str
    #: A sentence.
    says: str
    #: When the hold ends by itself; ``None``: not by time alone.
    until: datetime | None = None


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a member waits for, and what happens next."""

    holds: tuple[Hold, ...] = ()
    #: What happens next by itself, or that nothing does.
    next: str


def minute(moment: datetime | None) -> str:
    """A moment as it is written in these texts."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "no known time"


#: Why the user cannot be told, by the planner's code.
WHY_UNREACHABLE = {
    "opted_out": "the customer opted out; `reconnect optout --undo {user}` takes that back",
    "chose_none": "the customer chose no messages (users.channel is none)",
    "no_address": "the customer has no address and no device",
    "address_refused": "the only address was refused for good; another address in users.email ends that",
    "channel_not_configured": "the channels on which the customer could be told are not configured: {settings}",
}


MUTED_SENTENCE = "its user asked for no messages about this bank (members.muted_at); the unsubscribe page in each message takes that back"


#: Why a reconnection or message waits until its ``next_attempt_at``, by the outcome that was stored with that.
RECORDED = {
    "not_back": "the next reminder's day",
    "window": "its last message reached nobody; it waits for the next reminder's day",
    "outage_over": "its turn after the bank's outage",
    "broken_member_first": "it is a notice, and a broken bank of this customer goes first",
    "scheduled_notice": "it is a notice, and has a day of its own",
    "lease_lost": "its worker died",
    "requeued": "`reconnect retry` requeued it",
    "other_notification_live": "another message to this customer is under way",
    "quiet_hours": "QUIET_HOURS on the customer's clock",
    "message_cap": "MESSAGE_CAPS, since the customer was written to lately",
    MUTED: "its user asked for no messages about this bank",
}


def kind_of_message(position: CadencePosition, *, ahead: bool) -> str:
    """The name of the next message, if the user was notified before. ``ahead``: it is a notice."""
    if position.reminder == 0:  # the message that was sent did not count, because its answer was lost
        return "the first message, which may not have arrived,"
    return "the next notice" if ahead else "the next reminder"


def grace(until: datetime) -> Hold:
    """``NOTIFY_AFTER`` is not over."""
    return Hold(
        code="grace", says=f"grace (NOTIFY_AFTER) until {minute(until)}: many breaks mend by themselves", until=until
    )
