"""Is one message refused, or are we?

A relay on a block list refuses every message with the same words that one recipient's server may use for reasons of its own. Two
things tell the cases apart: how many messages are refused alike, and whether any is accepted meanwhile. It is a streak if:

- the server is not reached: 1 message, if none was accepted within the last minute;
- the refusal may mean us (a 554 5.7.1): 3 alike, if none was accepted within the last ten minutes; or 8 alike with none accepted in
  between; or 20 of the last 25;
- the refusal speaks of the recipient (a 5.1.1): 20 of the last 25, if none was accepted at all.

While some messages are accepted, refusals count only if more than one recipient domain refuses, or if the domain that refuses accepts
other messages. Otherwise a single strict domain would stop the channel.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile

import msgspec

#: A failure streak: so many failures among the last so many calls.
MANY, OUT_OF = 20, 25
#: Refusals that are enough with none accepted in between, and that are enough if none was accepted for a while.
UNBROKEN, FEW = 8, 3
#: Older answers are ignored.
MEMORY = timedelta(hours=1)

#: As :class:`worker.channels.Doubt` writes them.
UNREACHABLE, US = "unreachable", "us"
#: For how long no message must have been accepted, so that ``_ENOUGH`` refusals make a streak.
_QUIET = {UNREACHABLE: timedelta(minutes=1), US: timedelta(minutes=10)}
_ENOUGH = {UNREACHABLE: 1, US: FEW}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a server answered one message."""

    at: datetime
    #: How it was refused; ``None`` if it was accepted.
    refusal: str | None
    #: The recipient. Several devices of one user that refuse count once.
    user: str
    #: The recipient's domain; ``None`` if it is unknown or the channel is not email.
    place: str | None = None


def alike(what: str, doubt: str, answers: Sequence[Answer], *, now: datetime) -> int:
    """How many refusals like this one make a streak, among the answers of a channel within :data:`MEMORY`; 0 if they make none."""
    newest_first = sorted(answers, key=lambda answer: (answer.at, answer.refusal is None), reverse=True)
    accepted = [answer for answer in newest_first if answer.refusal is None]
    refused = _each_user(answer for answer in newest_first[:OUT_OF] if answer.refusal == what)
    if doubt not in _ENOUGH:
        return len(refused) if len(refused) >= MANY and not accepted else 0
    since_accepted = takewhile(lambda answer: answer.refusal is not None, newest_first)
    unbroken = _each_user(answer for answer in since_accepted if answer.refusal == what)
    if len(unbroken) >= _ENOUGH[doubt] and (not accepted or now - accepted[0].at > _QUIET[doubt]):
        return len(unbroken)
    if (len(unbroken) >= UNBROKEN or len(refused) >= MANY) and _is_everywhere(refused, accepted):
        return max(len(unbroken), len(refused))
    return 0


def _each_user(answers: Iterable[Answer]) -> list[Answer]:
    return list({answer.user: answer for answer in answers}.values())


def _is_everywhere(refused: Sequence[Answer], accepted: Sequence[Answer]) -> bool:
    """Whether more than one place refuses, or the place that refuses accepts other messages."""
    places = {answer.place for answer in refused}
    return None in places or len(places) > 1 or not places.isdisjoint(answer.place for answer in accepted)
