"""Every answer of FCM is classified, whatever its shape."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.channels import BadAddress, ChannelDown, Failed, Sent, TryLater
from worker.channels.push.fcm.classifying import classify
from worker.channels.push.http import HttpResponse


def reply(status: int, details: object, **headers: str) -> HttpResponse:
    return HttpResponse(status, headers, json.dumps({"error": {"details": details}}).encode())


def coded(code: object) -> list[dict[str, object]]:
    return [{"@type": "type.googleapis.com/google.rpc.Other"}, {"@type": "…FcmError", "errorCode": code}]


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (404, "UNREGISTERED", BadAddress(code="unregistered")),
        # FCM's present answer to an invalid token: it names no field.
        (400, "INVALID_ARGUMENT", BadAddress(code="invalid_token")),
        (403, "SENDER_ID_MISMATCH", ChannelDown(code="sender_id_mismatch")),
        (401, "THIRD_PARTY_AUTH_ERROR", ChannelDown(code="third_party_auth_error")),
        (429, "QUOTA_EXCEEDED", TryLater(code="quota_exceeded", whole_channel=True)),
        (503, "UNAVAILABLE", TryLater(code="unavailable", whole_channel=True)),
        (500, "INTERNAL", TryLater(code="internal")),
        (400, "UNSPECIFIED_ERROR", Failed(code="http_400")),
        (500, "UNSPECIFIED_ERROR", TryLater(code="http_500")),
        (400, "SOMETHING_NEW", Failed(code="http_400")),
        (429, 7, TryLater(code="http_429", whole_channel=True)),
    ],
)
def test_the_error_code_decides_before_the_status(status, code, outcome):
    assert classify(reply(status, coded(code))) == outcome


def test_the_code_is_read_and_not_only_the_status():
    assert classify(reply(500, coded("UNREGISTERED"))) == BadAddress(code="unregistered")
    assert classify(reply(400, coded("UNAVAILABLE"))) == TryLater(code="unavailable", whole_channel=True)


@pytest.mark.parametrize(
    ("violations", "outcome"),
    [
        ([{"field": "message.token"}], BadAddress(code="invalid_token")),
        ([{"field": "message.data"}, {"field": "message.token"}], BadAddress(code="invalid_token")),
        ([{"field": "message.android.ttl", "description": "message.token"}], Failed(code="invalid_argument")),
        ([{"field": "message"}], Failed(code="invalid_argument")),
        (["message.token", None, 7], Failed(code="invalid_argument")),
        ({"field": "message.token"}, Failed(code="invalid_argument")),
        (None, Failed(code="invalid_argument")),
    ],
)
def test_where_fields_are_named_a_token_is_blamed_only_if_it_is_among_them(violations, outcome):
    details = [*coded("INVALID_ARGUMENT"), {"@type": "…BadRequest", "fieldViolations": violations}]
    assert classify(reply(400, details)) == outcome


@pytest.mark.parametrize("status", [401, 403, 404, 301, 302, 307, 308])
def test_who_is_not_our_fcm_stops_the_channel(status):
    assert classify(HttpResponse(status, {}, b"<html>")) == ChannelDown(code=f"http_{status}")


@pytest.mark.parametrize("status", [502, 503, 504, 429])
def test_overload_slows_the_whole_channel(status):
    wait = classify(HttpResponse(status, {"retry-after": "30"}, b""))
    assert wait == TryLater(code=f"http_{status}", after=30.0, whole_channel=True)


@given(status=st.integers(300, 599), body=st.binary(max_size=200))
def test_nothing_but_200_is_sent_and_nothing_raises(status, body):
    outcome = classify(HttpResponse(status, {}, body))
    assert not isinstance(outcome, Sent)
    assert outcome.code == f"http_{status}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "details", "errorCode", "fieldViolations", "field"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(300, 599), value=json_values)
def test_json_of_any_shape_is_judged(status, value):
    assert not isinstance(classify(HttpResponse(status, {}, json.dumps(value).encode())), Sent)


def test_deeply_nested_json_is_judged():
    assert classify(HttpResponse(400, {}, b"[" * 60_000)) == Failed(code="http_400")
