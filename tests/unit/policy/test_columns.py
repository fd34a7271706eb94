"""How the words that applications write into columns are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.columns import channel_of, device_kind_of, status_of, statuses_as_written, truth_of
from worker.settings.values import CONNECTION_STATUSES


@pytest.mark.parametrize("text", ["DENIED", "denied", " DENIED", "Denied\r\n", "\u00a0DENIED", "2", "02", "2.0", " 2 "])
def test_a_status_is_read_whatever_its_case_its_space_or_its_form(text: str) -> None:
    assert status_of(text) == "DENIED"


@pytest.mark.parametrize("text", ["den\u0131ed", "DENIED!", "DEN IED", "22", "-2", "2.5", "\x00DENIED", "DENIED\x00"])
def test_what_is_not_quite_a_status_is_none_of_those_known(text: str) -> None:
    assert status_of(text) not in CONNECTION_STATUSES


@given(
    st.text(max_size=12) | st.sampled_from([*CONNECTION_STATUSES, "2", "06", "20.0", "x"]),
    st.sets(st.sampled_from(CONNECTION_STATUSES)),
)
def test_the_forms_of_some_statuses_are_those_that_are_read_as_them(text: str, some: set[str]) -> None:
    form = "".join(letter.upper() if letter.isascii() else letter for letter in text)
    assert (form in statuses_as_written(tuple(some))) == (status_of(form) in some and form == form.strip())


@pytest.mark.parametrize(
    ("text", "truth"),
    [("true", True), ("T", True), (" Yes", True), ("1", True), ("1.0", True), ("on", True), ("FALSE", False),
     ("f", False), ("no", False), ("0", False), ("7", None), ("", None), ("maybe", None), ("-1", None)],
)  # fmt: skip
def test_yes_and_no_are_read_in_their_usual_forms(text: str, truth: bool | None) -> None:
    assert truth_of(text) is truth


@pytest.mark.parametrize(
    ("text", "channel"),
    [("email", "email"), ("Email ", "email"), ("PUSH", "push"), ("iOS", "apns"), ("Android", "fcm"), ("None", "none"),
     ("sms", None), ("", None), ("carrier pigeon", None)],
)  # fmt: skip
def test_a_channel_is_read_where_it_is_plain(text: str, channel: str | None) -> None:
    assert channel_of(text) == channel


@pytest.mark.parametrize(
    ("text", "kind"),
    [("FCM", "fcm"), (" apns", "apns"), ("ios", "apns"), ("WebPush", "webpush"), ("email", None), ("", None)],
)
def test_a_kind_of_device_is_read_where_it_is_plain(text: str, kind: str | None) -> None:
    assert device_kind_of(text) == kind
