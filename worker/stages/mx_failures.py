"""What becomes of a reconnection when MX answers with no window and no member.

| MX answers | the reconnection | attempt |
|---|---|---|
| 401, 403, 406; 429, or pacing did not ask in time | as before: it is MX, or we, as a whole | no |
| another failure of MX's that makes a failure streak | as before; the breaker opens | no |
| 409, a null URI, any other passing failure | `due`, by the schedule of retries; `exhausted` after ``MAX_ATTEMPTS`` | yes |
| it cannot use OAuth | `unsupported`, for four weeks | |
| 404 | `gone` | |
| another 4xx, a redirect, a hostile URI | `quarantined` | |

Fetch and deliver go by this one table. Whether failures make a streak is the breaker's to say (:mod:`worker.stages.breaker`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from worker.mx.answers import Failure, Gone, HostileUri, RefusedClient, RejectedRequest, RetryLater, Unsupported
from worker.mx.persistence import NOT_ASKED
from worker.policy.retries import next_attempt
from worker.policy.states import ReconnectionState
from worker.store.sql.moments import NEVER

#: MX registers clients and institutions anew; an unsupported member is asked for again after this.
UNSUPPORTED_WAIT = timedelta(weeks=4)
#: What belongs to pacing: too many requests, and those that it did not let through in time.
_PACED = frozenset({"http_429", NOT_ASKED})

_S = ReconnectionState


@dataclass(frozen=True, kw_only=True, slots=True)
class UpstreamFailure:
    """MX serves nobody right now, or not us: no reconnection is to blame."""

    code: str
    #: Seconds that MX asked to wait.
    after: float | None = None
    #: The breaker is to open at once.
    refused: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """The reconnection is due again at ``at``."""

    code: str
    at: datetime
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """The reconnection ends."""

    code: str
    state: ReconnectionState
    #: When a sweep may open another for the member.
    reopen_at: datetime
    attempts: int


def blames_mx(answer: object) -> bool:
    """Whether an answer counts towards a failure streak: a 5xx, a timeout, half a body; not pacing, not a busy member."""
    return isinstance(answer, RetryLater) and answer.upstream and answer.code not in _PACED


def consequence_of(  # noqa: PLR0911 - one return for each row of the table
    answer: Failure | HostileUri, *, attempts: int, max_attempts: int, now: datetime, rng: Random
) -> UpstreamFailure | Retry | Close:
    """What ``answer`` does to a reconnection that has ``attempts`` failed attempts behind it."""
    match answer:
        case RefusedClient():
            return UpstreamFailure(code=answer.code, refused=True)
        case RetryLater() if answer.code in _PACED:
            return UpstreamFailure(code=answer.code, after=answer.after)
        case RetryLater() if attempts + 1 >= max_attempts:
            return Close(code=answer.code, state=_S.EXHAUSTED, reopen_at=NEVER, attempts=attempts + 1)
        case RetryLater():
            patient = answer.code == "http_503"
            at = next_attempt(attempts + 1, now=now, rng=rng, after=answer.after, patient=patient)
            return Retry(code=answer.code, at=at, attempts=attempts + 1)
        case Unsupported():
            return Close(code=answer.code, state=_S.UNSUPPORTED, reopen_at=now + UNSUPPORTED_WAIT, attempts=attempts)
        case Gone():
            return Close(code=answer.code, state=_S.GONE, reopen_at=NEVER, attempts=attempts)
        case RejectedRequest() | HostileUri():
            return Close(code=answer.code, state=_S.QUARANTINED, reopen_at=NEVER, attempts=attempts)
