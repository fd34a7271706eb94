"""Whether a refusal is about us or about one device."""

import pytest

from worker.channels import BadAddress, ChannelDown, Failed, Sent, TryLater, Unknown
from worker.channels.standing import Standing

REFUSAL = ChannelDown(code="http_403")


@pytest.fixture
def standing(clock):
    return Standing(lasts=3600, clock=clock)


def test_who_was_never_accepted_is_refused(standing):
    assert standing.assess("mozilla", REFUSAL) == REFUSAL


def test_who_was_accepted_lately_has_met_a_bad_device(standing, clock):
    standing.assess("mozilla", Sent())
    clock.now += 3599
    assert standing.assess("mozilla", REFUSAL) == TryLater(code="http_403")


def test_after_an_hour_without_success_the_refusal_is_ours(standing, clock):
    standing.assess("mozilla", Sent())
    clock.now += 3600
    assert standing.assess("mozilla", REFUSAL) == REFUSAL


def test_one_service_says_nothing_of_another(standing):
    standing.assess("mozilla", Sent())
    assert standing.assess("apple", REFUSAL) == REFUSAL


def test_some_refusals_can_only_be_about_us(standing):
    standing.assess("google", Sent())
    assert standing.assess("google", REFUSAL, may_be_the_device=False) == REFUSAL


@pytest.mark.parametrize("outcome", [TryLater(code="x"), BadAddress(code="x"), Failed(code="x"), Unknown(code="x")])
def test_other_outcomes_stay_and_prove_nothing(standing, outcome):
    assert standing.assess("google", outcome) is outcome
    assert standing.assess("google", REFUSAL) == REFUSAL
