"""When is a failed call to MX tried again at once, and how long does it wait?

This layer bridges seconds: a dropped connection, one bad answer of many. Whatever lasts longer is handed back at once, for
the database to retry in minutes, and for pacing and the breaker to learn of.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    stop_before_delay,
    wait_random_exponential,
)

from worker.mx.answers import RetryLater

#: Requests for one call, the first included.
TRIES = 4
#: Seconds: a longer Retry-After is not sat out with a connection's place in hand.
PATIENCE = 10.0

#: Full jitter: up to 0.25 s, then up to 0.5 s, then up to 1 s.
_BACKOFF = wait_random_exponential(multiplier=0.25, max=4)
#: The code of a call that pacing did not let through in time: MX was not asked.
NOT_ASKED = "not_asked"
#: What a repeat seconds later would only find again.
_LASTING = frozenset({"too_large", "tls_failed", NOT_ASKED})

_Answer = TypeVar("_Answer")


def tries_for(answer: object) -> int:
    """How many requests a call may make if this is what it heard last; 1 means that the answer stands.

    A 429 is repeated only where MX itself names a short wait: repeating blindly is what it complains of. A 409 means that
    another job runs for the member, which may end any moment and usually does not: one more try.
    """
    if not isinstance(answer, RetryLater) or answer.code in _LASTING:
        return 1
    if answer.after is not None and answer.after > PATIENCE:
        return 1
    if answer.code == "http_429" and answer.after is None:
        return 1
    return 2 if answer.code == "http_409" else TRIES


async def persist(first: _Answer, defer: Callable[[float], Awaitable[_Answer]], *, deadline: float) -> _Answer:
    """Goes on from a ``first`` answer that may be retried; gives the last one heard, never an exception of tenacity's.

    ``again(seconds)`` tries once more within so many seconds. Nothing is begun after ``deadline`` (``time.monotonic()``).
    """
    heard = [first]

    async def attempt() -> _Answer:
        if heard:  # tenacity counts the first answer as its first try, and waits from there
            return heard.pop()
        return await defer(deadline - time.monotonic())

    out_of_time = stop_before_delay(max(deadline - time.monotonic(), 0.0))
    retrying = AsyncRetrying(
        sleep=asyncio.sleep,
        wait=_wait,
        stop=lambda state: _enough(state) or out_of_time(state),
        retry=retry_if_result(lambda answer: tries_for(answer) > 1),
        retry_error_callback=_last_answer,
    )
    return await retrying(attempt)


def _last_answer(state: RetryCallState) -> Any:
    return state.outcome.result() if state.outcome else None


def _enough(state: RetryCallState) -> bool:
    return state.attempt_number >= tries_for(_last_answer(state))


def _wait(state: RetryCallState) -> float:
    """Not before Retry-After, and jittered beyond it: everybody else heard the same number."""
    return (_last_answer(state).after or 0.0) + _BACKOFF(state)
