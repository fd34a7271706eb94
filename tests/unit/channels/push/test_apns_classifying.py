"""Every answer of APNs is classified, whatever its shape. Apple's table of errors is tested against a simulated server."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.channels import BadAddress, ChannelDown, Failed, Sent, TryLater
from worker.channels.push.apns.classifying import classify, reason_of
from worker.channels.push.http import HttpResponse


def reply(status: int, reason: object) -> HttpResponse:
    return HttpResponse(status, {}, json.dumps({"reason": reason}).encode())


@pytest.mark.parametrize("reason", ["BadDeviceToken", "DeviceTokenNotForTopic"])
def test_a_token_that_is_not_taken_here_makes_a_suspect(reason):
    assert classify(reply(400, reason)).doubtful


@pytest.mark.parametrize("reason", ["Unregistered", "ExpiredToken"])
def test_an_app_that_was_removed_is_no_suspect(reason):
    assert classify(reply(410, reason)).doubtful is False


def test_the_reason_decides_before_the_status():
    assert classify(reply(400, "Unregistered")) == BadAddress(code="unregistered")
    assert classify(reply(500, "InvalidProviderToken")) == ChannelDown(code="invalid_provider_token")


def test_too_many_token_updates_wait_for_the_twenty_minutes_that_apple_wants():
    outcome = classify(reply(429, "TooManyProviderTokenUpdates"))
    assert outcome == TryLater(code="too_many_provider_token_updates", after=1200, whole_channel=True)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"7", b'{"reason": 7}', b'{"reason": null}', b"\xff", b"[" * 60_000]
)
def test_without_a_reason_there_is_none(body):
    assert reason_of(HttpResponse(400, {}, body)) == ""
    assert classify(HttpResponse(400, {}, body)) == Failed(code="http_400")


@given(status=st.integers(300, 599), reason=st.text(max_size=30))
def test_words_that_apple_does_not_list_never_become_codes(status, reason):
    outcome = classify(reply(status, f"{reason}!"))
    assert not isinstance(outcome, Sent)
    assert outcome.code == f"http_{status}"
