"""Posted events carry signatures that the receivers' library accepts, with the new key and with the old one."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from worker.signing import Signer, is_key


def key(byte: int, length: int = 32) -> str:
    return "whsec_" + base64.b64encode(bytes([byte]) * length).decode()


NEW, OLD, OLDEST = key(1), key(2), key(3)
BODY = '{"type":"user.opted_out","data":{"user_guid":"USR-é"}}'


def test_the_first_two_keys_sign_and_a_third_does_not() -> None:
    headers = Signer([SecretStr(NEW), SecretStr(OLD), SecretStr(OLDEST)]).headers("evt_1", BODY, datetime.now(UTC))
    assert len(headers["webhook-signature"].split(" ")) == 2
    for known in (NEW, OLD):
        assert Webhook(known).verify(BODY.encode(), headers) == {
            "type": "user.opted_out",
            "data": {"user_guid": "USR-é"},
        }
    with pytest.raises(WebhookVerificationError):
        Webhook(OLDEST).verify(BODY.encode(), headers)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body"])
def test_nothing_that_was_signed_can_be_changed(changed: str) -> None:
    now = datetime.now(UTC)
    headers = Signer([SecretStr(NEW)]).headers("evt_1", BODY, now)
    later = {"webhook-id": "evt_2", "webhook-timestamp": str(int((now + timedelta(seconds=9)).timestamp()))}
    body = BODY + " " if changed == "body" else BODY
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(body.encode(), headers | {changed: later.get(changed, "")})


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (key(1, 24), True),
        (key(1, 64), True),
        (key(1, 23), False),
        (key(1, 65), False),
        (key(1).removeprefix("whsec_"), False),
        (key(1) + "!", False),
        (key(1)[:-1], False),
        ("whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), False),
        ("whsec_é" + key(1)[7:], False),
    ],
)
def test_a_key_is_whsec_and_enough_bytes_in_base64(text: str, fits: bool) -> None:
    assert is_key(text) is fits
