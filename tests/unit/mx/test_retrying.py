import asyncio
import time

import pytest

from worker.mx.answers import Gone, HostileUri, RefusedClient, RejectedRequest, RetryLater, Unsupported
from worker.mx.retrying import PATIENCE, TRIES, persist, tries_for


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (RetryLater(code="http_500"), TRIES),
        (RetryLater(code="http_503"), TRIES),
        (RetryLater(code="http_503", after=PATIENCE), TRIES),
        (RetryLater(code="http_503", after=PATIENCE + 1), 1),
        (RetryLater(code="timeout"), TRIES),
        (RetryLater(code="connection_lost"), TRIES),
        (RetryLater(code="not_json"), TRIES),
        (RetryLater(code="no_uri", upstream=False), TRIES),
        (RetryLater(code="http_409", upstream=False), 2),
        (RetryLater(code="http_409", upstream=False, after=60), 1),
        (RetryLater(code="http_429"), 1),
        (RetryLater(code="http_429", after=1), TRIES),
        (RetryLater(code="http_429", after=60), 1),
        (RetryLater(code="too_large"), 1),
        (RetryLater(code="tls_failed"), 1),
        (Unsupported(), 1),
        (Gone(), 1),
        (RefusedClient(code="http_401"), 1),
        (RejectedRequest(code="http_422"), 1),
        (HostileUri(code="uri_port"), 1),
    ],
)
def test_only_what_seconds_can_mend_is_tried_again(answer, tries):
    assert tries_for(answer) == tries


class Answers:
    """Gives these answers, one for each try. A further try fails the test."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self):
        self.asked += 1
        return self.answers.pop(0)


def soon(seconds=20.0):
    return time.monotonic() + seconds


BROKEN = RetryLater(code="http_500")


async def test_the_first_other_answer_ends_it():
    defer = Answers(RetryLater(code="timeout"), Gone())
    assert await persist(BROKEN, defer, begin_by=soon()) == Gone()


async def test_four_tries_are_made_and_the_last_answer_is_given():
    defer = Answers(BROKEN, BROKEN, RetryLater(code="http_502"))
    assert await persist(BROKEN, defer, begin_by=soon()) == RetryLater(code="http_502")
    assert defer.asked == 3


async def test_a_busy_member_is_asked_once_more():
    busy = RetryLater(code="http_409", upstream=False)
    defer = Answers(busy)
    assert await persist(busy, defer, begin_by=soon()) == busy


async def test_retry_after_is_waited_for():
    started = time.monotonic()
    assert await persist(RetryLater(code="http_503", after=0.5), Answers(Gone()), begin_by=soon()) == Gone()
    assert 0.5 <= time.monotonic() - started < 15


async def test_a_wait_beyond_the_deadline_is_not_begun():
    last = RetryLater(code="http_503", after=50)
    started = time.monotonic()
    assert await persist(last, Answers(), begin_by=soon(30)) == last
    assert time.monotonic() - started < 15


async def test_nothing_is_tried_after_the_deadline():
    assert await persist(BROKEN, Answers(), begin_by=soon(-1)) == BROKEN


async def test_waits_are_short_and_differ():
    async def timed():
        started = time.monotonic()
        await persist(BROKEN, Answers(Gone()), begin_by=soon())
        return time.monotonic() - started

    waits = await asyncio.gather(*(timed() for _ in range(40)))
    assert min(waits) < 1
    assert max(waits) - min(waits) > 0.05


async def test_cancelling_passes_through_a_wait_and_a_try():
    waiting = asyncio.create_task(persist(RetryLater(code="http_503", after=5), Answers(), begin_by=soon()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    begun = asyncio.Event()

    async def hang():
        begun.set()
        await asyncio.Event().wait()

    trying = asyncio.create_task(persist(BROKEN, hang, begin_by=soon()))
    await begun.wait()
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying


async def test_an_error_of_our_own_is_not_swallowed():
    async def fail():
        raise LookupError

    with pytest.raises(LookupError):
        await persist(BROKEN, fail, begin_by=soon())
