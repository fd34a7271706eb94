"""How each answer of MX is classified, and that arbitrary answers never raise."""

import json
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from types import NoneType
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from worker.mx.answers import (
    Failure,
    Gone,
    HostileUri,
    Member,
    MemberRead,
    MemberState,
    RefusedClient,
    RejectedRequest,
    RetryLater,
    Unsupported,
    Window,
)
from worker.mx.classifying import classify_member, classify_window
from worker.mx.error_statuses import LONGEST_WAIT
from worker.mx.uris import check_uri

ASKED = "MBR-7c6f361b-e582-15b6-60c0-358f12466b4b"
URI = "https://mxbank.mx.com/oauth/authorize?client_id=b8Oik&response_type=code&state=d273e4f71bc095cf16c4acbee011caf4"
MEMBER = {
    "aggregated_at": "2016-10-13T18:07:57+00:00",
    "connection_status": "CONNECTED",
    "guid": ASKED,
    "identifier": "unique_id",
    "institution_code": "mx_bank_oauth",
    "is_being_aggregated": False,
    "metadata": '{"credentials_last_refreshed_at": "2015-10-15"}',
    "name": "MX Bank (OAuth)",
    "oauth_window_uri": URI,
    "status": "COMPLETED",
    "successfully_aggregated_at": "2016-10-13T17:57:38+00:00",
    "user_guid": "USR-fa7537f3-48aa-a683-a02a-b18940482f54",
}


def everywhere(_host):
    return True


def window(body, status=200, headers=None, host_is_allowed=everywhere):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_window(status, headers or {}, body, asked=ASKED, host_is_allowed=host_is_allowed)


def member(body, status=200, headers=None):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_member(status, headers or {}, body, asked=ASKED)


def read(**fields):
    """The state of a member with these fields."""
    answer = member({"member": {"guid": ASKED} | fields})
    assert isinstance(answer, MemberRead)
    return answer.member


# A window


def test_the_sample_of_the_specification_is_a_window():
    assert window({"member": MEMBER}) == Window(
        uri=URI,
        member=MemberState(
            guid=ASKED,
            connection_status="CONNECTED",
            is_being_aggregated=False,
            successfully_aggregated_at=datetime(2016, 10, 13, 17, 57, 38, tzinfo=UTC),
        ),
    )


def test_the_short_answer_of_platform_is_a_window():
    answer = window({"member": {"guid": ASKED, "oauth_window_uri": URI}})
    assert answer == Window(uri=URI, member=MemberState(guid=ASKED))


def test_unknown_fields_are_passed_over():
    body = {"member": MEMBER | {"new": {"deep": [1]}, "actions": None}, "pagination": {}, "meta": 7}
    assert isinstance(window(body), Window)


@pytest.mark.parametrize("uri", [None, "", "   ", "\n", 7, True, [URI], {"href": URI}])
def test_a_null_empty_or_odd_uri_is_a_failure_of_this_member_alone(uri):
    assert window({"member": MEMBER | {"oauth_window_uri": uri}}) == RetryLater(code="no_uri", upstream=False)


def test_a_missing_uri_is_a_failure():
    assert window({"member": {"guid": ASKED}}) == RetryLater(code="no_uri", upstream=False)
    assert window({"member": {}}) == RetryLater(code="no_uri", upstream=False)


def test_a_uri_is_never_taken_from_anywhere_else():
    assert window({"oauth_window_uri": URI}) == RetryLater(code="unexpected_shape")
    assert window({"member": {"guid": ASKED}, "oauth_window_uri": URI}) == RetryLater(code="no_uri", upstream=False)


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://mxbank.mx.com/", "uri_not_https"),
        ("https://evil.example\\@mxbank.mx.com/", "uri_backslash"),
        (f" {URI}", "uri_whitespace"),
        ("https://127.1/", "uri_ip_literal"),
    ],
)
def test_a_hostile_uri_is_told_by_the_rule_it_breaks(uri, code):
    assert window({"member": MEMBER | {"oauth_window_uri": uri}}) == HostileUri(code=code)


def test_a_uri_to_a_host_that_is_not_allowed_is_hostile():
    assert window({"member": MEMBER}, host_is_allowed=lambda _: False) == HostileUri(code="uri_host_not_allowed")


def test_no_answer_shows_the_uri_in_its_repr():
    for uri in (URI, f"{URI}\\", f"{URI} "):
        assert "state" not in repr(window({"member": MEMBER | {"oauth_window_uri": uri}}))


# The member


def test_a_missing_guid_means_the_one_that_was_asked_for():
    assert read(guid=None).guid == ASKED
    assert window({"member": {"oauth_window_uri": URI}}) == Window(uri=URI, member=MemberState(guid=ASKED))


def test_a_member_that_moved_carries_its_new_guid():
    answer = window({"member": MEMBER | {"guid": "MBR-123"}})
    assert isinstance(answer, Window)
    assert answer.member.guid == "MBR-123"


@pytest.mark.parametrize("guid", ["", "USR-1", "MBR-", "MBR-a/b", "MBR-" + "x" * 200, 7, ["MBR-1"], {}, False])
def test_an_invalid_guid_is_an_unexpected_shape(guid):
    assert window({"member": MEMBER | {"guid": guid}}) == RetryLater(code="unexpected_shape")
    assert member({"member": MEMBER | {"guid": guid}}) == RetryLater(code="unexpected_shape")


def test_a_member_is_read_whether_or_not_there_is_a_uri():
    assert member({"member": MEMBER}) == member({"member": MEMBER | {"oauth_window_uri": None}})
    assert read() == Member(guid=ASKED)


@pytest.mark.parametrize("status", ["DENIED", "RECONNECTED", "SOMETHING_NEW_2031"])
def test_a_status_is_kept_whether_or_not_it_is_known(status):
    assert read(connection_status=status).connection_status == status
    assert read(connection_status=status.lower()).connection_status == status


@pytest.mark.parametrize("status", [None, "", 6, "a b", "x\x00", "\ud800", "é", "X" * 65, ["DENIED"]])
def test_a_status_that_is_no_word_counts_as_missing(status):
    assert read(connection_status=status).connection_status is None


@pytest.mark.parametrize(("flag", "seen"), [(True, True), (False, False), (None, None), ("true", None), (1, None)])
def test_flags_are_true_false_or_unknown(flag, seen):
    assert read(is_oauth=flag).is_oauth is seen
    assert read(is_being_aggregated=flag).is_being_aggregated is seen


@pytest.mark.parametrize(
    "text",
    [
        "2016-10-13T17:57:38+00:00",
        "2016-10-13T17:57:38Z",
        "2016-10-13T17:57:38.000Z",
        "2016-10-13T19:57:38+02:00",
        "2016-10-13T17:57:38",
    ],
)
def test_a_moment_is_in_utc_however_it_is_written(text):
    moment = read(successfully_aggregated_at=text).successfully_aggregated_at
    assert moment == datetime(2016, 10, 13, 17, 57, 38, tzinfo=UTC)
    assert moment.tzinfo is UTC


@pytest.mark.parametrize("text", [None, "", "yesterday", 1476381458, "0001-01-01T00:00:00+23:00", "2016-13-01", {}])
def test_an_odd_moment_counts_as_missing(text):
    assert read(successfully_aggregated_at=text).successfully_aggregated_at is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"error_code": 2004}, 2004),
        ({"error_code": "2005", "error_message": "…"}, 2005),
        ({"error_code": None}, None),
        ({"error_code": True}, None),
        ({"error_code": -1}, None),
        ({"error_code": 10**30}, None),
        ({"error_code": "1" * 5000}, None),
        ({"error_code": 2004.5}, None),
        ({}, None),
        (None, None),
        ("2004", None),
        ([2004], None),
    ],
)
def test_an_error_code_is_read_where_there_is_one(error, code):
    assert read(error=error).error_code == code


# Bodies that cannot be used


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html><body>502</body></html>",
        json.dumps({"member": MEMBER}).encode()[:-40],
        b'{"member": {"oauth_window_uri": "https://mxbank.mx.com/oauth?sta',
        b"\xff\xfe\xfd",
        b'{"member": "\xff"}',
        b"\x1f\x8b\x08\x00",
        b"[" * 200_000,
        b'{"member": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_is_tried_again(body):
    assert window(body) == RetryLater(code="not_json")
    assert member(body) == RetryLater(code="not_json")


@pytest.mark.parametrize("body", [None, 7, "text", [], [MEMBER], {}, {"member": None}, {"member": [MEMBER]}, MEMBER])
def test_json_of_another_shape_is_tried_again(body):
    assert window(body) == RetryLater(code="unexpected_shape")
    assert member(body) == RetryLater(code="unexpected_shape")


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 226])
def test_every_2xx_is_judged_by_its_body(status):
    assert isinstance(window({"member": MEMBER}, status), Window)


def test_a_204_has_no_body_and_so_no_uri():
    assert window(b"", 204) == RetryLater(code="not_json")


def test_json_in_another_unicode_encoding_is_understood():
    assert isinstance(window(json.dumps({"member": MEMBER}).encode("utf-8-sig")), Window)
    assert isinstance(window(json.dumps({"member": MEMBER}).encode("utf-16")), Window)


# Member cannot use OAuth

SAYS_NO = "Member cannot use OAuth"


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"error": {"message": SAYS_NO}}),
        json.dumps({"error": SAYS_NO}),
        json.dumps({"message": SAYS_NO}),
        json.dumps({"errors": [SAYS_NO]}),
        json.dumps({"errors": [{"detail": [{"text": f"Sorry: {SAYS_NO}."}]}]}),
        json.dumps(SAYS_NO),
        json.dumps({"message": "member CANNOT use oauth"}),
        '{"message": "Member cannot use \\u004fAuth"}',
        json.dumps({"message": SAYS_NO}).encode("utf-16").decode("latin-1"),
        SAYS_NO,
        f"Bad Request: {SAYS_NO}\r\n",
        "Member  cannot\nuse OAuth",
        f"<html><body><h1>400</h1><p>{SAYS_NO}</p></body></html>",
        "<p>Member cannot use&nbsp;<b class='x'>OAuth</b></p>",
        f'{{"error": "{SAYS_NO}',
        f"\xff\xfe {SAYS_NO}",
    ],
)
def test_a_400_that_says_so_in_any_shape_means_unsupported(body):
    assert window(body.encode("latin-1"), 400) == Unsupported()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Bad Request",
        b'{"error": {"message": "guid is invalid"}}',
        b"cannot use OAuth",
        b"Member can use OAuth",
        b"null",
        b"[" * 200_000,
        b"\xff" * 1000,
    ],
)
def test_any_other_400_needs_a_person(body):
    assert window(body, 400) == RejectedRequest(code="http_400")


def test_the_words_mean_nothing_under_another_status():
    assert window(SAYS_NO.encode(), 422) == RejectedRequest(code="http_422")
    assert window(SAYS_NO.encode(), 500) == RetryLater(code="http_500")
    assert window(SAYS_NO.encode(), 404) == Gone()


# Statuses

TABLE = (
    {status: RejectedRequest(code=f"http_{status}") for status in range(300, 500)}
    | {status: RefusedClient(code=f"http_{status}") for status in (401, 403, 406)}
    | {404: Gone(), 409: RetryLater(code="http_409", upstream=False), 429: RetryLater(code="http_429")}
    | {status: RetryLater(code=f"http_{status}") for status in (*range(500, 600), 408, 425, 0, 100, 199, 600, 999, -1)}
)


@pytest.mark.parametrize("read", [window, member])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", json.dumps({"member": MEMBER}).encode(), b'{"error": {"message": "x"}}']
)
def test_every_status_means_what_the_table_says_whatever_the_body(read, body):
    assert {status: read(body, status) for status in TABLE} == TABLE


# Retry-After

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504, 529])
def test_retry_after_is_heard_wherever_there_is_something_to_retry(status):
    for name in ("Retry-After", "retry-after", "RETRY-AFTER"):
        assert window(b"", status, {name: "120"}).after == 120
        assert window(b"", status, CIMultiDict({name: " 1.5 "})).after == 1.5


@pytest.mark.parametrize("value", ["3600", "3601", "86400", "9" * 4000, "Wed, 01 Jan 2200 00:00:00 GMT"])
def test_an_absurd_retry_after_is_cut_to_an_hour(value):
    assert window(b"", 503, {"Retry-After": value}).after == LONGEST_WAIT


@pytest.mark.parametrize(
    "value", ["", " ", "soon", "-5", "1e3", "NaN", "inf", "0x10", "1,5", "١٢", "12 s", "\x00", "()"]
)
def test_a_retry_after_that_makes_no_sense_is_not_heard(value):
    assert window(b"", 503, {"Retry-After": value}) == RetryLater(code="http_503")


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 23 Nov 2026 12:01:30 GMT",
        "Monday, 23-Nov-26 12:01:30 GMT",
        "Mon Nov 23 12:01:30 2026",
        "Mon, 23 Nov 2026 13:01:30 +0100",
    ],
)
def test_a_date_in_retry_after_is_measured_on_the_clock_of_mx(value):
    headers = {"Retry-After": value, "Date": format_datetime(NOW, usegmt=True)}
    assert window(b"", 503, headers).after == 90


def test_a_date_in_retry_after_without_any_clock_of_mx_is_measured_on_ours():
    in_five = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    assert 290 < window(b"", 503, {"Retry-After": in_five}).after <= 300
    assert 290 < window(b"", 503, {"Retry-After": in_five, "Date": "rubbish"}).after <= 300


def test_a_date_that_is_over_means_now():
    assert window(b"", 503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}).after == 0


def test_a_failure_that_is_not_retried_hears_no_retry_after():
    assert window(b"", 404, {"Retry-After": "5"}) == Gone()


# Arbitrary answers

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(URI)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*MEMBER, "member", "error"]), inner),
    max_leaves=12,
)
bodies = st.one_of(
    st.binary(max_size=300),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps({"member": value}).encode()),
    st.dictionaries(st.sampled_from([*MEMBER, "is_oauth", "error"]), json_values).map(
        lambda fields: json.dumps({"member": MEMBER | fields}).encode()
    ),
    st.text(max_size=40).map(lambda text: json.dumps({"member": {"oauth_window_uri": f"https://{text}"}}).encode()),
)
header_values = st.one_of(
    st.text(max_size=40),
    st.integers().map(str),
    st.datetimes(timezones=st.just(UTC)).map(lambda moment: format_datetime(moment, usegmt=True)),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=-23)))).map(format_datetime),
)
headers = st.dictionaries(st.sampled_from(["Retry-After", "retry-after", "Date", "Content-Type", "X"]), header_values)
statuses = st.one_of(st.integers(), st.sampled_from([200, 400, 404, 409, 429, 503]))


@given(statuses, headers, bodies)
def test_whatever_comes_is_judged_and_a_window_holds_only_a_uri_that_passes(status, headers, body):
    answer = classify_window(status, headers, body, asked=ASKED, host_is_allowed=everywhere)
    assert isinstance(answer, (Window, HostileUri, *get_args(Failure)))
    if isinstance(answer, Window):
        assert check_uri(answer.uri, host_is_allowed=everywhere) is None
        assert answer.member.guid.startswith("MBR-")
    if isinstance(answer, RetryLater):
        assert answer.after is None or 0 <= answer.after <= LONGEST_WAIT


@given(statuses, headers, bodies)
def test_whatever_comes_a_member_is_read_or_a_failure_told(status, headers, body):
    answer = classify_member(status, headers, body, asked=ASKED)
    assert isinstance(answer, (MemberRead, *get_args(Failure)))
    if isinstance(answer, MemberRead):
        state = answer.member
        assert isinstance(state.connection_status, str | NoneType)
        assert isinstance(state.is_oauth, bool | NoneType)
        assert isinstance(state.is_being_aggregated, bool | NoneType)
        assert isinstance(state.error_code, int | NoneType)
        assert state.successfully_aggregated_at is None or state.successfully_aggregated_at.tzinfo is UTC
