"""How answers of the company's messenger are classified, and the fields of a request."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from worker.channels import BadAddress, Bank, Doubt, DurableLink, Failed, Message, Sent, TryLater
from worker.channels.messenger.classifying import classify
from worker.channels.messenger.request import content
from worker.channels.push.http import HttpResponse

SINCE = datetime(2026, 3, 3, 23, 30, tzinfo=UTC)
LINK = DurableLink(
    page="https://reconnect.example.com/r/token", unsubscribe="https://reconnect.example.com/u/token", until=SINCE
)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_success_is_sent(status):
    assert isinstance(classify(HttpResponse(status, {}, b"")), Sent)


def test_410_is_a_user_whom_the_messenger_cannot_reach():
    outcome = classify(HttpResponse(410, {}, b""))
    assert isinstance(outcome, BadAddress)
    assert outcome.refusal.doubt is Doubt.MESSAGE


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 405, 409, 413, 422])
def test_another_refusal_is_failed_and_may_mean_all_of_us(status):
    outcome = classify(HttpResponse(status, {}, b""))
    assert isinstance(outcome, Failed)
    assert outcome.refusal.doubt is Doubt.US


@pytest.mark.parametrize(
    ("status", "whole"), [(429, True), (502, True), (503, True), (504, True), (500, False), (507, False)]
)
def test_a_busy_or_broken_messenger_is_asked_later(status, whole):
    outcome = classify(HttpResponse(status, {"Retry-After": "90"}, b""))
    assert isinstance(outcome, TryLater)
    assert (outcome.whole_channel, outcome.after) == (whole, 90.0)


def message(*names: str, **overrides):
    banks = tuple(Bank(name=name, since=SINCE, link=LINK.page) for name in names)
    values = {"key": "k1", "address": "USR-1", "locale": "fr-CA", "time_zone": ZoneInfo("America/Toronto"), "step": 0}
    return Message(**(values | {"banks": banks, "link": LINK} | overrides))


def test_a_request_has_template_data_our_text_and_our_link():
    assert content(message("First Bank"), LINK, app="Ledgerly", default_locale=None) == {
        "key": "k1",
        "user_guid": "USR-1",
        "locale": "fr-CA",
        "time_zone": "America/Toronto",
        "kind": "broken",
        "step": 0,
        "app": "Ledgerly",
        "banks": [{"name": "First Bank", "since": "2026-03-03T23:30:00Z"}],
        "more": 0,
        "text": {
            "language": "fr",
            "title": "Reconnectez First Bank",
            "body": "La connexion entre Ledgerly et First Bank est interrompue. Ouvrez Ledgerly pour la rétablir.",
        },
        "link": "https://reconnect.example.com/r/token",
        "link_expires_at": "2026-03-03T23:30:00Z",
        "unsubscribe": "https://reconnect.example.com/u/token",
    }


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        (ZoneInfo("Etc/GMT-2"), "Etc/GMT-2"),
        (timezone(timedelta(hours=5, minutes=30)), "+05:30"),
        (timezone(-timedelta(hours=3, minutes=30)), "-03:30"),
        (UTC, "UTC"),
    ],
)
def test_a_zone_is_an_iana_name_or_an_offset(zone, text):
    assert content(message("B", time_zone=zone), LINK, app="L", default_locale=None)["time_zone"] == text


def test_reminders_and_notices_are_told_apart_and_no_more_than_ten_banks_are_named():
    assert content(message("B", step=2), LINK, app="L", default_locale=None)["kind"] == "reminder"
    assert content(message("B", ahead=True), LINK, app="L", default_locale=None)["kind"] == "expires_soon"
    many = content(message(*"abcdefghijkl", more=3), LINK, app="L", default_locale=None)
    assert (len(many["banks"]), many["more"]) == (10, 5)


def test_a_bank_without_a_visible_name_has_none():
    assert content(message("\u202e"), LINK, app="L", default_locale=None)["banks"][0]["name"] is None
