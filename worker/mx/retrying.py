"""When is a failed call to MX retried within seconds, and after which wait?

This module handles failures of seconds, such as a dropped connection or one bad answer of many. A longer failure is returned, and the
stage retries it in minutes; pacing and the breaker take it into account.
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
#: A longer ``Retry-After`` is not waited for here, since the wait would occupy a connection (seconds).
PATIENCE = 10.0

#: No request is begun in the last seconds of a call's time: 5, or a quarter of the time if that is less. A request that MX has no time to
#: answer would look like a timeout of MX, which counts an attempt and cuts the limit of requests in flight.
TIME_TO_ANSWER = 5.0

#: Full jitter: up to 0.25 s, then up to 0.5 s, then up to 1 s.
_BACKOFF = wait_random_exponential(multiplier=0.25, max=4)
#: The code of a call that got no permit in time: MX was not asked.
NOT_ASKED = "not_asked"
#: Failures of a connection. If a user waits, there is one retry at once.
NEVER_ARRIVED = frozenset({"connection_lost", "connect_failed", "truncated"})
#: Failures that a retry seconds later would only meet again.
_LASTING = frozenset({"too_large", "tls_failed", NOT_ASKED})

_Answer = TypeVar("_Answer")


def begin_within(seconds: float) -> float:
    """How many seconds after the beginning of a call that may take ``seconds`` a request may still begin. Examples: 40 of 45, 7.5 of 10."""
    return seconds - min(TIME_TO_ANSWER, seconds / 4)


def tries_for(answer: object) -> int:
    """How many requests a call may make if this is its latest answer; 1 means that the answer is final.

    A 429 is retried only if MX names a short wait, since it means that there were too many requests. A 409 means that another job runs for
    the member. That job may end at any moment but usually does not, so there is one retry.
    """
    if not isinstance(answer, RetryLater) or answer.code in _LASTING:
        return 1
    if answer.after is not None and answer.after > PATIENCE:
        return 1
    if answer.code == "http_429" and answer.after is None:
        return 1
    return 2 if answer.code == "http_409" else TRIES


async def persist(first: _Answer, ask_again: Callable[[], Awaitable[_Answer]], *, begin_by: float) -> _Answer:
    """Retry after a ``first`` answer; returns the last answer, and never raises an exception of tenacity.

    ``ask_again()`` makes one more request. None is begun after ``begin_by`` (``time.monotonic()``).
    """
    unreturned = [first]

    async def attempt() -> _Answer:
        if unreturned:  # tenacity counts the first answer as its first try, and waits from there
            return unreturned.pop()
        return await ask_again()

    out_of_time = stop_before_delay(max(begin_by - time.monotonic(), 0.0))
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
    """``Retry-After`` plus a random wait, because all other callers got the same ``Retry-After``."""
    return (_last_answer(state).after or 0.0) + _BACKOFF(state)
