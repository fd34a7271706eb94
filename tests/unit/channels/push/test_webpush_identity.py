"""The VAPID key, the contact, and which addresses are public."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from worker.channels.push.webpush.public_resolver import PublicResolver
from worker.channels.push.webpush.vapid import check_contact, load_vapid
from worker.errors import SettingsError


def pem_of(key, form=serialization.PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL], ids=["PKCS8", "SEC1"]
)
def test_pem_of_either_kind_is_a_key(tmp_path, form):
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "key.pem"
    file.write_bytes(pem_of(key, form))
    assert load_vapid(file).private_key.private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"secret",
        b"\xff\xfe",
        b"A" * 43 + b"!",
        b"A" * 43,  # zero is no private key
        b"AAAA",
        b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n",
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    ],
)
def test_anything_else_is_a_settings_error_that_quotes_nothing(tmp_path, content):
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="WEBPUSH_VAPID_KEY_FILE: expected") as caught:
        load_vapid(file)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "contact",
    [
        "mailto:push@acme.example",
        "mailto:a+b@mail.acme.example",
        "https://acme.example",
        "https://acme.example/contact?x=1",
    ],
)
def test_a_contact_that_push_services_take(contact):
    assert check_contact(contact) == contact


@pytest.mark.parametrize(
    "contact",
    [
        "",
        "push@acme.example",
        "mailto:",
        "mailto:push@localhost",
        "https://localhost",
        "http://acme.example",
        "mailto:a b@acme.example",
        "mailto:a@acme.example\n",
        "tel:+123",
    ],
)
def test_a_contact_that_they_refuse_is_a_settings_error(contact):
    with pytest.raises(SettingsError, match="WEBPUSH_CONTACT"):
        check_contact(contact)


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("142.250.184.10", True),
        ("2a00:1450:4003:80f::200a", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("ff02::1", False),
    ],
)
def test_only_public_addresses_are_connected_to(address, is_public):
    assert PublicResolver()._is_allowed(address) is is_public


def test_with_loopback_allowed_private_networks_are_still_out():
    resolver = PublicResolver(allow_loopback=True)
    assert resolver._is_allowed("127.0.0.1")
    assert not resolver._is_allowed("10.0.0.1")
