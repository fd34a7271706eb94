"""Retry-After, URLs of push services, and the codes of errors."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest

from worker.channels.push.http import HttpResponse, asked_to_wait, error_code, service_url
from worker.errors import SettingsError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("17", 17.0), (" 17 ", 17.0), ("86400", 86_400.0), ("999999", 86_400.0), ("9" * 400, 86_400.0)],
)
def test_seconds_to_wait(value, seconds):
    assert asked_to_wait({"Retry-After": value}) == seconds
    assert asked_to_wait({"retry-after": value}) == seconds


@pytest.mark.parametrize("value", ["", "soon", "-5", "1,5", "1e3", "٣", "2026-03-03", "Mon, 99 Foo 2026"])
def test_nonsense_is_no_wait(value):
    assert asked_to_wait({"Retry-After": value}) is None


def test_no_header_is_no_wait():
    assert asked_to_wait({}) is None


def test_a_date_to_wait_for():
    now = datetime.now(UTC)
    assert 58 < asked_to_wait({"Retry-After": format_datetime(now + timedelta(seconds=60), usegmt=True)}) <= 60
    assert asked_to_wait({"Retry-After": format_datetime(now - timedelta(days=1), usegmt=True)}) == 0.0
    assert asked_to_wait({"Retry-After": format_datetime(now + timedelta(days=9), usegmt=True)}) == 86_400.0


@pytest.mark.parametrize("url", ["https://fcm.googleapis.com", "https://fcm.googleapis.com/", "https://h:8443/a/b"])
def test_https_is_fine(url):
    assert service_url("X", url) == url.rstrip("/")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:8080", "http://[::1]:9"])
def test_http_is_fine_towards_this_machine(url):
    assert service_url("X", url) == url


@pytest.mark.parametrize(
    "url",
    ["", "fcm.googleapis.com", "http://fcm.googleapis.com", "ftp://h", "https://u:secret@h", "https://h?q", "https://"],
)
def test_anything_else_is_a_settings_error_that_quotes_nothing(url):
    with pytest.raises(SettingsError, match="settings: FCM_BASE_URL") as caught:
        service_url("FCM_BASE_URL", url)
    assert "secret" not in str(caught.value)


def test_an_error_becomes_a_word_and_never_its_text():
    assert error_code(aiohttp.InvalidURL("https://secret")) == "connection_lost"
    assert error_code(TimeoutError("secret")) == "timeout"
    assert error_code(ValueError("secret")) == "unexpected"


def test_a_reply_does_not_show_its_body():
    assert repr(HttpResponse(400, {"secret": "x"}, b"secret")) == "HttpResponse(400)"
