"""Requests show neither addresses nor links."""

from pathlib import Path

import pytest

from worker.channels import BadAddress, Failed
from worker.channels.push.apns import message as apns
from worker.channels.push.apns.config import ApnsConfig
from worker.channels.push.fcm import message as fcm
from worker.channels.push.fcm.config import FcmConfig

DEVICE = "0f" * 32


@pytest.fixture
def apns_config():
    return ApnsConfig(key_file=Path("k"), key_id="K", team_id="T", topic="com.acme", app_name="Acme")


@pytest.fixture
def fcm_config():
    return FcmConfig(service_account_file=Path("k"), app_name="Acme")


def test_a_push_to_apple_shows_neither_device_nor_words(make_message, apns_config):
    push = apns.build(make_message(address=DEVICE), apns_config)
    assert DEVICE in push.path
    assert DEVICE not in repr(push)
    assert "First Bank" not in repr(push)


@pytest.mark.parametrize("address", [DEVICE[:-1], DEVICE + "\n", "0x" + DEVICE, "g" * 64, "../" * 30])
def test_apple_s_tokens_are_hexadecimal(make_message, apns_config, address):
    assert apns.build(make_message(address=address), apns_config) == BadAddress(code="address_syntax")


def test_apple_s_tokens_may_grow(make_message, apns_config):
    assert isinstance(apns.build(make_message(address="0F" * 80), apns_config), apns.Push)


def test_a_message_about_nothing_cannot_be_built(make_message, apns_config, fcm_config):
    nothing = make_message(banks=())
    assert apns.build(nothing, apns_config) == fcm.build(nothing, fcm_config) == Failed(code="no_banks")


def test_what_is_posted_to_fcm_is_held_to_4096_octets(make_message, fcm_config):
    assert len(fcm.build(make_message("銀" * 5000, address="x" * 2000), fcm_config)) <= 4096
    assert fcm.build(make_message(address="x" * 4000), fcm_config) == Failed(code="payload_too_large")
