"""Is it one message that is refused, or are we?

A relay on a block list refuses every recipient with the same words that one recipient's own server may use for its own reasons.
What tells them apart is how many are refused alike, and whether anything is accepted meanwhile:

- Nobody answers at all: one is enough, where nothing was accepted within the last minute.
- It may be us who are refused (a 554 5.7.1): 3 alike where nothing was accepted within the last ten minutes, or 8 without a message
  accepted in between, or 20 of the last 25.
- It speaks of the recipient (a 5.1.1): 20 of the last 25, where nothing was accepted at all.

Where some messages are accepted, refusals count only if they come from more than one place, since one strict domain is not everybody.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile

import msgspec

#: A failure streak: so many failures among the last so many calls.
MANY, OUT_OF = 20, 25
#: Enough without a message accepted in between; enough where none was accepted for a while.
UNBROKEN, FEW = 8, 3
#: What happened before this is forgotten.
MEMORY = timedelta(hours=1)

#: As :class:`worker.channels.Doubt` writes them.
UNREACHABLE, US = "unreachable", "us"
#: For how long nothing must have been accepted, where few refusals are to be enough.
_QUIET = {UNREACHABLE: timedelta(minutes=1), US: timedelta(minutes=10)}
_ENOUGH = {UNREACHABLE: 1, US: FEW}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message that was offered."""

    at: datetime
    #: How it was refused; ``None``: it was accepted.
    refusal: str | None
    #: To whom. One user's devices, refused one after the other, count once.
    user: str
    #: Where it went: the recipient's domain. ``None`` where that says nothing.
    place: str | None = None


def alike(what: str, doubt: str, answers: Sequence[Answer], *, now: datetime) -> int:
    """How many refusals like this make a streak, among the answers of a channel within :data:`MEMORY`; 0 if they are none."""
    last = sorted(answers, key=lambda answer: (answer.at, answer.refusal is None), reverse=True)
    accepted = [answer for answer in last if answer.refusal is None]
    refused = _each_user(answer for answer in last[:OUT_OF] if answer.refusal == what)
    if doubt not in _ENOUGH:
        return len(refused) if len(refused) >= MANY and not accepted else 0
    since_accepted = takewhile(lambda answer: answer.refusal is not None, last)
    unbroken = _each_user(answer for answer in since_accepted if answer.refusal == what)
    if len(unbroken) >= _ENOUGH[doubt] and (not accepted or now - accepted[0].at > _QUIET[doubt]):
        return len(unbroken)
    if (len(unbroken) >= UNBROKEN or len(refused) >= MANY) and _is_everywhere(refused, accepted):
        return max(len(unbroken), len(refused))
    return 0


def _each_user(answers: Iterable[Answer]) -> list[Answer]:
    return list({answer.user: answer for answer in answers}.values())


def _is_everywhere(refused: Sequence[Answer], accepted: Sequence[Answer]) -> bool:
    """Whether what is refused does not go to one place alone, to which nothing else is accepted."""
    concurrency = {answer.place for answer in refused}
    return (
        None in concurrency or len(concurrency) > 1 or not concurrency.isdisjoint(answer.place for answer in accepted)
    )
