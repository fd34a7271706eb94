"""What does a failure of MX do, in every stage?

Fetch asks MX for a window. Right before a message leaves, deliver reads the member again or asks for a new window. Verify reads members whose
user was told or clicked. A click on a link asks for a window at once (:mod:`worker.stages.click`). After a webhook its member is read
(:mod:`worker.stages.hints`). A sync lists members and reads those that the list lacks (:mod:`worker.stages.sync`).

| kind | MX answers | fetch | deliver | verify | click | hint, sync |
|---|---|---|---|---|---|---|
| `REFUSED` | 401, 403, 406 | unchanged | message waits | check again in 5 min | try again | waits |
| `PACED` | 429, or pacing sent nothing in time | unchanged | message waits | check again in 5 min | try again | waits |
| `UPSTREAM` | 5xx, 408, 425, a timeout, half a body | retry | retry, left out | next check | try again | read again |
| `PASSING` | 409, a null URI; an error of ours | retry | retry, left out | next check | try again | read again |
| `GONE` | 404 | `gone` | `gone`, left out | `gone` | `gone` | `gone` |
| `UNSUPPORTED` | 400 `Member cannot use OAuth` | `unsupported` | `unsupported`, left out | next check | `unsupported` | hint `failed` |
| `REJECTED` | another 4xx, a redirect | `quarantined` | `quarantined`, left out | next check | `quarantined` | hint `failed` |
| `HOSTILE` | a URI that must not reach a user | `quarantined` | `quarantined`, left out | does not occur | `quarantined` | does not occur |

- **unchanged**: still `due`, no attempt is counted. After `REFUSED` fetch, deliver, verify and hints do not ask MX until the breaker's
  probe is served; clicks still ask. After `PACED` the reconnection waits for `Retry-After` and a random time of up to a minute.
- **message waits**: its reconnections stay `ready`, and nothing is counted.
- **retry**: `due` again by the schedule of :mod:`worker.policy.retries`, with one more failed attempt; `exhausted` if that is
  attempt number ``MAX_ATTEMPTS``.
- **left out**: the message goes out about its other reconnections. If none is left, it is `cancelled`.
- **hint, sync**: the reconnection stays as it is, except after a 404. Then it ends as `gone`, unless a worker has leased it, or the hint
  names another user than our row. **waits**: nothing is counted. **read again**: by the same schedule, ``MAX_ATTEMPTS`` times for a hint.
  A sync reads a member three times at most, whatever failed.
- **How long an end lasts**: `unsupported` for 4 weeks, then a sweep may open another reconnection. `gone` until a sync or a hint finds the
  member at MX again. `exhausted` and `quarantined` until `reconnect retry`. Each of them ends earlier if the application's row tells of a newer
  revocation or expiry, or says that the member is well.
- **check again in 5 min**: not counted as a check. A member that is checked only after a click is checked at the next moment after the click
  instead (20 s, 40 s, 1, 2, 5, 10 min). **next check**: counted unless it follows a click, so that the interval to the next
  check grows. A notice is checked only after a click, and a reconnection that is `due` only after a click or the end of OAuth. If MX
  serves nobody at the last of these checks, it is repeated until MX answers. Verify only reads the member. So `UNSUPPORTED` and
  `REJECTED` end no reconnection here.
- **try again**: the page asks the user to try again. The reconnection stays as it is, no attempt is counted, and nothing is added to a
  failure streak. If no click on it is served within an hour, the user is owed a message (:mod:`worker.policy.cadence`). A click that
  meets `REFUSED` opens the breaker, as in fetch. A click can end a reconnection in any open state.

A failure streak: 20 `UPSTREAM` failures among the last 25 calls of one run of a stage open the breaker. Fetch and deliver then give the
attempts of the failures since the last served call back (:mod:`worker.stages.attribution`).

A `GONE` or `REJECTED` answer counts as served by MX. But a web server that is not MX may answer the same. So after 20 of them in a row in
one process (:data:`worker.mx.client.MOST_GONE`) MX is asked for its list of users first. If that fails, its failure counts instead:
`REFUSED` if the answer is not a list of users, or an empty one; `UPSTREAM` after a 5xx or a timeout.

Which HTTP answer is of which kind is decided in :mod:`worker.mx.error_statuses` and :func:`worker.stages.attribution.failure_of`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from random import Random

import msgspec

from worker.policy.moments import NEVER
from worker.policy.recovery import is_for_click, next_check
from worker.policy.retries import next_attempt
from worker.policy.states import ReconnectionState

#: MX is asked again about an unsupported member after this time, since registrations of clients and institutions change.
UNSUPPORTED_WAIT = timedelta(weeks=4)
#: A check that could not be made, or whose worker died, is made again after this.
RECHECK_AFTER = timedelta(minutes=5)

_S = ReconnectionState


class FailureKind(Enum):
    """The kinds of failure; the module's table has a row for each."""

    REFUSED = auto()
    PACED = auto()
    UPSTREAM = auto()
    PASSING = auto()
    GONE = auto()
    UNSUPPORTED = auto()
    REJECTED = auto()
    HOSTILE = auto()


#: MX did not serve the request. The other kinds of failure are answers that MX gives while it works well.
NOT_SERVED = frozenset({FailureKind.REFUSED, FailureKind.PACED, FailureKind.UPSTREAM, FailureKind.PASSING})
#: These count neither as an attempt nor as a check: they tell nothing about a member.
UNCOUNTED = frozenset({FailureKind.REFUSED, FailureKind.PACED})
#: Each counts as an attempt. MX is asked again until ``MAX_ATTEMPTS``.
ASKED_AGAIN = frozenset({FailureKind.UPSTREAM, FailureKind.PASSING})


class MxFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of MX that holds neither a window nor a member."""

    kind: FailureKind
    #: A short word for logs, ``status`` and the database.
    code: str
    #: Seconds that MX asked to wait (``Retry-After``).
    after: float | None = None


#: An error of this worker counts as an attempt, so that it cannot repeat for ever.
OUR_FAULT = MxFailure(kind=FailureKind.PASSING, code="internal_error")


@dataclass(frozen=True, kw_only=True, slots=True)
class MxUnavailable:
    """MX serves nobody right now, or not us. The reconnection stays as it is."""

    code: str
    #: Seconds that MX asked to wait.
    after: float | None = None


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckAgain:
    """The reconnection stays as it is, and its member is read again at ``at``."""

    code: str
    at: datetime
    #: Whether it counts as a check. If not, the interval to the next check does not grow.
    counts: bool


def after_asking(  # noqa: PLR0911 - one return for each row of the table
    failure: MxFailure, *, attempts: int, max_attempts: int, now: datetime, rng: Random
) -> MxUnavailable | Retry | Close:
    """Fetch, deliver and click: what ``failure`` does to a reconnection after ``attempts`` failed attempts; a click counts none."""
    match failure.kind:
        case FailureKind.REFUSED:
            return MxUnavailable(code=failure.code)
        case FailureKind.PACED:
            return MxUnavailable(code=failure.code, after=failure.after)
        case FailureKind.UPSTREAM | FailureKind.PASSING if attempts + 1 >= max_attempts:
            return Close(code=failure.code, state=_S.EXHAUSTED, reopen_at=NEVER, attempts=attempts + 1)
        case FailureKind.UPSTREAM | FailureKind.PASSING:
            patient = failure.code == "http_503"
            at = next_attempt(attempts + 1, now=now, rng=rng, after=failure.after, patient=patient)
            return Retry(code=failure.code, at=at, attempts=attempts + 1)
        case FailureKind.UNSUPPORTED:
            return Close(code=failure.code, state=_S.UNSUPPORTED, reopen_at=now + UNSUPPORTED_WAIT, attempts=attempts)
        case FailureKind.GONE:
            return Close(code=failure.code, state=_S.GONE, reopen_at=NEVER, attempts=attempts)
        case FailureKind.REJECTED | FailureKind.HOSTILE:
            return Close(code=failure.code, state=_S.QUARANTINED, reopen_at=NEVER, attempts=attempts)


def after_checking(
    failure: MxFailure, *, checks: int, now: datetime, clicked_at: datetime | None = None
) -> ReconnectionState | CheckAgain:
    """Verify: what ``failure`` does to a reconnection whose member was checked ``checks`` times: the state in which it ends, or a check.

    ``clicked_at``: the last click; the member is checked sooner after it.
    """
    if failure.kind is FailureKind.GONE:
        return _S.GONE
    if failure.kind in UNCOUNTED:
        return CheckAgain(code=failure.code, at=now + RECHECK_AFTER, counts=False)
    counts = not is_for_click(now, clicked_at=clicked_at)
    at = next_check(checks + counts, now, clicked_at=clicked_at)
    return CheckAgain(code=failure.code, at=at, counts=counts)
