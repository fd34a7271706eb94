"""Whether a failure is attributed to the member or to MX."""

from typing import Any

import pytest

from worker.mx.answers import Failure, Gone, HostileUri, RefusedClient, RejectedRequest, RetryLater, Unsupported
from worker.mx.retrying import NOT_ASKED
from worker.policy.mx_failures import OUR_FAULT, FailureKind, MxFailure
from worker.policy.streaks import MANY, OUT_OF
from worker.stages.attribution import Attribution, failure_of
from worker.stages.breaker import Breaker

UPSTREAM = MxFailure(kind=FailureKind.UPSTREAM, code="http_503")
MEMBER = 1


def new(*, probe: bool = False) -> tuple[Attribution, Breaker]:
    nothing_stored: Any = None
    breaker = Breaker(nothing_stored, "mx")
    return Attribution(breaker, probe=probe), breaker


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (RefusedClient(code="http_401"), FailureKind.REFUSED),
        (RetryLater(code="http_429", after=3.0), FailureKind.PACED),
        (RetryLater(code=NOT_ASKED, upstream=False), FailureKind.PACED),
        (RetryLater(code="http_503"), FailureKind.UPSTREAM),
        (RetryLater(code="http_409", upstream=False), FailureKind.PASSING),
        (Gone(), FailureKind.GONE),
        (Unsupported(), FailureKind.UNSUPPORTED),
        (RejectedRequest(code="http_422"), FailureKind.REJECTED),
        (HostileUri(code="uri_not_https"), FailureKind.HOSTILE),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_every_answer_has_its_row_in_the_table(answer: Failure | HostileUri, kind: FailureKind) -> None:
    assert failure_of(answer) == MxFailure(kind=kind, code=answer.code, after=getattr(answer, "after", None))


def test_a_failure_is_undecided_until_mx_serves_somebody() -> None:
    attribution, _ = new()
    assert not attribution.failed(UPSTREAM, MEMBER)
    assert attribution.may_be_mx(MEMBER)
    attribution.served()
    assert not attribution.may_be_mx(MEMBER)


@pytest.mark.parametrize("kind", [FailureKind.GONE, FailureKind.UNSUPPORTED, FailureKind.REJECTED, FailureKind.HOSTILE])
def test_an_answer_that_only_a_working_mx_gives_decides_for_the_others(kind: FailureKind) -> None:
    attribution, _ = new()
    attribution.failed(UPSTREAM, MEMBER)
    attribution.failed(MxFailure(kind=kind, code="x"), 2)
    assert not attribution.may_be_mx(MEMBER)
    assert not attribution.may_be_mx(2)


@pytest.mark.parametrize("failure", [MxFailure(kind=FailureKind.PACED, code="http_429"), OUR_FAULT])
def test_too_many_requests_and_busy_members_make_no_streak_and_decide_nothing(failure: MxFailure) -> None:
    attribution, breaker = new()
    attribution.failed(UPSTREAM, MEMBER)
    assert not any(attribution.failed(failure, number) for number in range(2, 2 + OUT_OF))
    assert not breaker.tripped
    assert attribution.may_be_mx(MEMBER)
    assert not attribution.may_be_mx(2)


def test_a_streak_is_mx_s_and_each_of_its_failures_is_given_out_once() -> None:
    attribution, breaker = new()
    stops = [attribution.failed(UPSTREAM, number) for number in range(1, MANY + 1)]
    assert stops == [False] * (MANY - 1) + [True]
    assert breaker.tripped
    assert all(attribution.was_mx(number) for number in range(1, MANY))
    assert not attribution.was_mx(MANY), "it was told so at once"
    assert attribution.take_blamed() == list(range(1, MANY))
    assert attribution.take_blamed() == []


def test_nothing_is_given_out_while_the_breaker_is_closed() -> None:
    attribution, _ = new()
    attribution.failed(UPSTREAM, MEMBER)
    assert not attribution.was_mx(MEMBER)
    assert attribution.take_blamed() == []
    assert attribution.may_be_mx(MEMBER)


def test_no_more_is_given_out_than_a_streak_can_hold() -> None:
    attribution, _ = new()
    for number in range(1, 61):
        attribution.failed(UPSTREAM, number)
        if number <= 40:
            attribution.served()  # half of the calls fail, which is no failure streak
    blamed = attribution.take_blamed()
    assert blamed == list(range(blamed[-1] - OUT_OF + 1, blamed[-1] + 1))


def test_refused_credentials_are_never_the_members_fault() -> None:
    attribution, breaker = new()
    assert attribution.failed(MxFailure(kind=FailureKind.REFUSED, code="http_401"), MEMBER)
    assert breaker.tripped
    assert not attribution.may_be_mx(MEMBER)


def test_a_probe_s_first_failure_is_mx_s() -> None:
    attribution, breaker = new(probe=True)
    assert attribution.failed(UPSTREAM, MEMBER)
    assert not breaker.tripped, "it is open already"
    assert not attribution.may_be_mx(MEMBER)


def test_a_failure_in_a_probe_after_mx_served_somebody_is_the_member_s() -> None:
    attribution, _ = new(probe=True)
    attribution.served()
    assert not attribution.failed(UPSTREAM, MEMBER)
    assert attribution.may_be_mx(MEMBER), "as in any run, until its end"
