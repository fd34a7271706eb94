"""Every answer of a push service is classified. The documented answers are tested against a simulated server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.channels import ChannelDown, Failed, Sent, TryLater
from worker.channels.push.http import PRIVATE_ADDRESS, HttpResponse
from worker.channels.push.webpush.channel import _result
from worker.channels.push.webpush.classifying import classify


@given(status=st.integers(200, 599), body=st.binary(max_size=100))
def test_only_2xx_is_sent_and_nothing_raises(status, body):
    assert isinstance(classify(HttpResponse(status, {}, body)), Sent) == (status < 300)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"7", b'"VapidPkHashMismatch"', b'{"reason": "BadJwtToken"}', b"[" * 60_000]
)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_that_names_no_other_key_is_ours(status, body):
    assert classify(HttpResponse(status, {}, body)) == ChannelDown(code=f"http_{status}")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure(status):
    assert classify(HttpResponse(status, {"Location": "https://inside.example"}, b"")) == Failed(code=f"http_{status}")


def test_a_name_that_leads_inside_fails_for_good():
    assert _result(TryLater(code=PRIVATE_ADDRESS)) == Failed(code="endpoint_private_address")
    assert _result(TryLater(code="dns_failed")) == TryLater(code="dns_failed")
