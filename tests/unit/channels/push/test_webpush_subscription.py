"""Which subscriptions can be posted to, and which are bad addresses."""

import base64
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from worker.channels import BadAddress, Failed
from worker.channels.push.webpush.config import WebPushConfig
from worker.channels.push.webpush.subscription import Subscription, parse

GOOGLE = "https://fcm.googleapis.com/fcm/send/abc:APA91b"


def encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


POINT = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
SECRET = os.urandom(16)
KEYS = {"p256dh": encoded(POINT), "auth": encoded(SECRET)}


def subscription(endpoint: object = GOOGLE, keys: object = KEYS) -> str:
    return json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": keys})


def config(**overrides: object) -> WebPushConfig:
    return WebPushConfig(vapid_key_file=Path("k"), contact="mailto:a@b.example", app_name="Acme", **overrides)


@pytest.mark.parametrize(
    "endpoint",
    [
        GOOGLE,
        "https://updates.push.services.mozilla.com/wpush/v2/gAAAA",
        "https://web.push.apple.com/QGbHz",
        "https://wns2-par02p.notify.windows.com/w/?token=BQYAAAC%2f",
        "https://FCM.googleapis.com:443/fcm/send/abc",
    ],
)
def test_the_known_push_services_are_known(endpoint):
    found = parse(subscription(endpoint), config())
    assert isinstance(found, Subscription)
    assert found.endpoint == endpoint
    assert found.info() == {"endpoint": endpoint, "keys": KEYS}


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        (GOOGLE, "https://fcm.googleapis.com"),
        ("https://FCM.googleapis.com:443/fcm/send/abc", "https://fcm.googleapis.com"),
    ],
)
def test_a_vapid_token_is_made_out_to_the_origin(endpoint, origin):
    assert parse(subscription(endpoint), config()).origin == origin


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://push.evil.example/x",
        "https://fcm.googleapis.com.evil.example/x",
        "https://evil-fcm.googleapis.com/x",
        "https://push.services.mozilla.com.evil.example/",
        "https://permanently-removed.invalid/fcm/send/abc",
        "https://metadata.google.internal/computeMetadata/v1/",
    ],
)
def test_other_hosts_are_refused_without_blaming_the_address(endpoint):
    assert parse(subscription(endpoint), config()) == Failed(code="endpoint_host_not_allowed")


def test_which_hosts_are_known_can_be_said():
    allowed = config(hosts=("*.Push.Example",))
    assert isinstance(parse(subscription("https://a.push.example/x"), allowed), Subscription)
    assert parse(subscription(), allowed) == Failed(code="endpoint_host_not_allowed")


@pytest.mark.parametrize(
    ("endpoint", "code"),
    [
        ("http://fcm.googleapis.com/x", "endpoint_not_https"),
        ("ftp://fcm.googleapis.com/x", "endpoint_not_https"),
        ("file:///etc/passwd", "endpoint_not_https"),
        ("", "endpoint_not_https"),
        ("https://127.0.0.1/x", "endpoint_ip_literal"),
        ("https://10.0.0.1/x", "endpoint_ip_literal"),
        ("https://169.254.169.254/latest/meta-data", "endpoint_ip_literal"),
        ("https://[::1]/x", "endpoint_ip_literal"),
        ("https://2130706433/x", "endpoint_ip_literal"),
        ("https://0x7f.1/x", "endpoint_ip_literal"),
        ("https://user@fcm.googleapis.com/x", "endpoint_user_info"),
        ("https://fcm.googleapis.com:8443/x", "endpoint_port"),
        ("https://evil.example\\@fcm.googleapis.com/", "endpoint_backslash"),
        ("https://fcm.googleapis.com/a b", "endpoint_whitespace"),
        ("https://fcm.googleapis.com/a\r\nX: y", "endpoint_whitespace"),
        ("https://localhost/x", "endpoint_host"),
        ("https://fcm.googleapis.com/ü", "endpoint_malformed"),
    ],
)
@pytest.mark.parametrize("hosts", [None, ("*",)])
def test_an_endpoint_that_is_no_push_service_s_is_a_bad_address(endpoint, code, hosts):
    outcome = parse(subscription(endpoint), config(**({"hosts": hosts} if hosts else {})))
    assert outcome == BadAddress(code=code)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8080/x", "https://127.0.0.1/x", "http://localhost:1/x", "http://[::1]:1/x"]
)
def test_this_machine_is_allowed_only_where_that_was_chosen(endpoint):
    assert isinstance(parse(subscription(endpoint), config()), BadAddress)
    assert isinstance(parse(subscription(endpoint), config(allow_loopback=True)), Subscription)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://10.0.0.1/x",
        "http://u@127.0.0.1/x",
        "http://fcm.googleapis.com/x",
        "http://127.0.0.1\\@evil/",
        "ftp://[::1]/",
    ],
)
def test_allowing_this_machine_allows_nothing_else(endpoint):
    assert isinstance(parse(subscription(endpoint), config(allow_loopback=True)), BadAddress)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "null",
        "[]",
        "7",
        "{}",
        "not json",
        GOOGLE,
        "[" * 60_000,
        subscription(keys=None),
        subscription(keys={}),
        subscription(keys={"p256dh": KEYS["p256dh"]}),
        subscription(keys={**KEYS, "auth": None}),
        subscription(keys={**KEYS, "auth": 7}),
        subscription(keys={**KEYS, "auth": encoded(SECRET[:-1])}),
        subscription(keys={**KEYS, "auth": "not base64!"}),
        subscription(keys={**KEYS, "p256dh": encoded(POINT[:-1])}),
        subscription(keys={**KEYS, "p256dh": encoded(b"\x04" + bytes(64))}),
        subscription(keys={**KEYS, "p256dh": ""}),
        subscription(keys={**KEYS, "p256dh": encoded(b"\x02" + POINT[1:33])}),
        subscription(endpoint=None),
        subscription(endpoint=[GOOGLE]),
    ],
)
def test_what_is_no_subscription_is_a_bad_address(address):
    assert parse(address, config()) == BadAddress(code="subscription_malformed")


def test_keys_with_padding_are_understood():
    padded = {name: key + "=" * (-len(key) % 4) for name, key in KEYS.items()}
    assert parse(subscription(keys=padded), config()).info()["keys"] == KEYS


@given(st.text(max_size=100))
def test_any_text_is_judged(text):
    assert not isinstance(parse(text, config()), Subscription)


def test_a_subscription_does_not_show_itself():
    found = parse(subscription(), config())
    assert repr(found) == "Subscription(…)"
