"""Whether a refusal is attributed to us or to one device: it depends on when the service last accepted a message."""

import pytest

from worker.channels import BadAddress, ChannelDown, Failed, Sent, TryLater, Unknown
from worker.channels.last_accepted import LastAccepted

REFUSAL = ChannelDown(code="http_403")


@pytest.fixture
def last_accepted(clock):
    return LastAccepted(valid_for=3600, clock=clock)


def test_who_was_never_accepted_is_refused(last_accepted):
    assert last_accepted.attribute("mozilla", REFUSAL) == REFUSAL


def test_who_was_accepted_lately_has_met_a_bad_device(last_accepted, clock):
    last_accepted.attribute("mozilla", Sent())
    clock.now += 3599
    assert last_accepted.attribute("mozilla", REFUSAL) == TryLater(code="http_403")


def test_after_an_hour_without_success_the_refusal_is_ours(last_accepted, clock):
    last_accepted.attribute("mozilla", Sent())
    clock.now += 3600
    assert last_accepted.attribute("mozilla", REFUSAL) == REFUSAL


def test_one_service_says_nothing_of_another(last_accepted):
    last_accepted.attribute("mozilla", Sent())
    assert last_accepted.attribute("apple", REFUSAL) == REFUSAL


def test_some_refusals_can_only_be_about_us(last_accepted):
    last_accepted.attribute("google", Sent())
    assert last_accepted.attribute("google", REFUSAL, may_be_address=False) == REFUSAL


@pytest.mark.parametrize("outcome", [TryLater(code="x"), BadAddress(code="x"), Failed(code="x"), Unknown(code="x")])
def test_other_outcomes_stay_and_prove_nothing(last_accepted, outcome):
    assert last_accepted.attribute("google", outcome) is outcome
    assert last_accepted.attribute("google", REFUSAL) == REFUSAL
