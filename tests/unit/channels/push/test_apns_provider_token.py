"""When a new provider token is made."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from worker.channels.push.apns.provider_token import ProviderToken


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def token(key, clock):
    return ProviderToken(key, key_id="KEY", team_id="TEAM", clock=clock)


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_it_is_a_jwt_that_the_public_key_verifies(key, token, clock):
    head, claims, signature = token.current().split(".")
    raw = decoded(signature)
    assert len(raw) == 64
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.public_key().verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
    assert json.loads(decoded(head)) == {"alg": "ES256", "kid": "KEY"}
    assert json.loads(decoded(claims)) == {"iss": "TEAM", "iat": int(clock.now)}
    assert "=" not in token.current()


def test_it_is_used_for_forty_minutes(token, clock):
    first = token.current()
    clock.now += 40 * 60 - 1
    assert token.current() == first
    clock.now += 1
    assert token.current() != first


def test_messages_beside_each_other_renew_it_once(token):
    expired = token.current()
    fresh = token.renewed(expired)
    assert fresh not in {None, expired}
    assert token.renewed(expired) == token.current() == fresh


def test_it_is_not_renewed_twice_within_twenty_minutes(token, clock):
    fresh = token.renewed(token.current())
    clock.now += 20 * 60 - 1
    assert token.renewed(fresh) is None
    clock.now += 1
    assert token.renewed(fresh) not in {None, fresh}


def test_a_renewed_token_is_used_for_forty_minutes_too(token, clock):
    fresh = token.renewed(token.current())
    clock.now += 40 * 60 - 1
    assert token.current() == fresh
