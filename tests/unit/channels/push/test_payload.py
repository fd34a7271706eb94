"""The parts of a push message besides its text: id, link and size."""

import json
from datetime import UTC, datetime

import pytest

from worker.channels import DurableLink
from worker.channels.push.payload import data_for, encode_payload, link_for, message_id


def test_a_key_that_fits_every_service_is_the_id():
    assert message_id("5f0c1a2b3c4d5e6f708192a3b4c5d6e7") == "5f0c1a2b3c4d5e6f708192a3b4c5d6e7"


@pytest.mark.parametrize("key", ["", "x" * 33, "episode-7/0", "a b", "ümlaut", "a\n"])
def test_any_other_key_has_an_id_of_its_own_that_fits(key):
    id_ = message_id(key)
    assert len(id_) == 32
    assert id_.isalnum()
    assert id_ == message_id(key) != message_id(f"{key}!")


def test_there_is_no_link_unless_it_was_chosen(make_message, link):
    assert link_for(make_message(), include_link=False) is None
    assert link_for(make_message(), include_link=True) == link


def test_a_tap_cannot_open_two_pages(make_message):
    assert link_for(make_message("First Bank", "Second Bank"), include_link=True) is None


@pytest.mark.parametrize("names", [("First Bank",), ("First Bank", "Second Bank")])
def test_our_own_link_always_travels_for_any_number_of_banks(make_message, names):
    now = datetime(2026, 3, 3, tzinfo=UTC)
    ours = DurableLink(page="https://reconnect.example/r/t", unsubscribe="https://reconnect.example/u/t", until=now)
    for chosen in (False, True):
        assert link_for(make_message(*names, link=ours), include_link=chosen) == ours.page


def test_the_app_always_gets_the_message_s_key(make_message, link):
    message = make_message()
    assert data_for(message, None) == {"message_key": message.key}
    assert data_for(message, link) == {"message_key": message.key, "link": link}


def test_a_link_that_is_too_long_is_left_out():
    def build(link):
        return {"link": link} if link else {"no": "link"}

    room = len(b'{"link":""}')
    assert json.loads(encode_payload(build, "x" * (50 - room), limit=50))["link"]
    assert json.loads(encode_payload(build, "x" * (51 - room), limit=50)) == {"no": "link"}


def test_octets_are_counted_and_not_characters():
    assert encode_payload(lambda _: {"t": "é" * 22}, None, limit=52) is not None
    assert encode_payload(lambda _: {"t": "é" * 23}, None, limit=52) is None
