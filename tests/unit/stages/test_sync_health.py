"""Which failures end a run of a sync: MX's own, by the same rule as in fetch."""

import pytest

from worker.policy.mx_failures import FailureKind, MxFailure
from worker.policy.streaks import MANY
from worker.stages.sync_pass_base import MxHealth


def _failed(kind: FailureKind, code: str) -> MxFailure:
    return MxFailure(kind=kind, code=code)


@pytest.mark.parametrize("kind", [FailureKind.PACED, FailureKind.PASSING])
def test_failures_that_are_not_mxs_own_do_not_make_a_streak_with_one_that_is(kind: FailureKind) -> None:
    health = MxHealth()
    assert not any(health.failed(_failed(kind, "other")) for _ in range(MANY))
    assert not health.failed(_failed(FailureKind.UPSTREAM, "http_503"))
    assert not health.code


def test_a_streak_of_mxs_own_failures_ends_the_run_whatever_comes_between() -> None:
    health = MxHealth()
    for _ in range(MANY - 1):
        assert not health.failed(_failed(FailureKind.UPSTREAM, "http_503"))
        assert not health.failed(_failed(FailureKind.PACED, "http_429"))
    assert health.failed(_failed(FailureKind.UPSTREAM, "http_503"))
    assert (health.code, health.refused) == ("http_503", False)


def test_answers_of_a_well_mx_end_a_streak() -> None:
    health = MxHealth()
    for _ in range(MANY - 1):
        health.failed(_failed(FailureKind.UPSTREAM, "http_503"))
    for _ in range(6):
        health.failed(_failed(FailureKind.GONE, "not_found"))
    assert not health.failed(_failed(FailureKind.UPSTREAM, "http_503"))


def test_a_refusal_ends_it_at_once() -> None:
    health = MxHealth()
    assert health.failed(_failed(FailureKind.REFUSED, "http_401"))
    assert (health.code, health.refused) == ("http_401", True)
