"""Each user gets messages on the preferred channel, and none after opting out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.policy.channel_choice import CHOICES, DEVICE_CHANNELS, Contact, Nobody, Route, choose

ALL = ("email", *DEVICE_CHANNELS)
MAIL = "ana@mail.example"
PHONE, TABLET, IPHONE, BROWSER = ("fcm", "phone"), ("fcm", "tablet"), ("apns", "iphone"), ("webpush", "browser")


@pytest.mark.parametrize(
    ("preferred", "email", "devices", "expected"),
    [
        # No preference means email, or push if there is no email address.
        (None, MAIL, (), ("email", MAIL)),
        (None, MAIL, (PHONE,), ("email", MAIL)),
        (None, None, (PHONE,), PHONE),
        ("email", MAIL, (PHONE,), ("email", MAIL)),
        ("email", None, (IPHONE, PHONE), PHONE),
        # "push" means any device; email if there is none.
        ("push", MAIL, (PHONE,), PHONE),
        ("push", MAIL, (BROWSER,), BROWSER),
        ("push", MAIL, (BROWSER, IPHONE), IPHONE),
        ("push", MAIL, (), ("email", MAIL)),
        # A kind of device comes first, then the other kinds, then email.
        ("webpush", MAIL, (PHONE, BROWSER), BROWSER),
        ("apns", MAIL, (PHONE,), PHONE),
        ("apns", MAIL, (), ("email", MAIL)),
        # Of several devices of one kind, the first is used.
        ("push", None, (TABLET, PHONE), TABLET),
        # Applications write the column themselves. An unknown word counts as no preference.
        ("pigeon", MAIL, (), ("email", MAIL)),
        ("pigeon", None, (PHONE,), PHONE),
    ],
)
def test_the_preferred_channel_is_chosen_and_else_the_next_best(
    preferred: str | None, email: str | None, devices: tuple[tuple[str, str], ...], expected: tuple[str, str]
) -> None:
    contact = Contact(preferred=preferred, email=email, devices=devices)
    assert choose(contact, configured=ALL) == Route(channel=expected[0], address=expected[1])


@pytest.mark.parametrize(
    ("contact", "configured", "failed", "expected"),
    [
        ({"email": MAIL, "devices": (PHONE,)}, ("fcm",), (), PHONE),
        ({"email": MAIL, "devices": (PHONE,)}, ALL, ("email",), PHONE),
        ({"email": MAIL, "devices": (PHONE,), "preferred": "push"}, ALL, ("fcm",), ("email", MAIL)),
        ({"email": MAIL, "devices": (PHONE, BROWSER), "preferred": "push"}, ALL, ("fcm",), BROWSER),
        ({"email": MAIL, "refused_email": MAIL, "devices": (PHONE,)}, ALL, (), PHONE),
        # A refusal is stored with the refused address. A new address is tried.
        ({"email": "new@mail.example", "refused_email": MAIL}, ALL, (), ("email", "new@mail.example")),
    ],
)
def test_what_is_not_configured_failed_or_was_refused_is_passed_over(
    contact: dict[str, Any], configured: tuple[str, ...], failed: tuple[str, ...], expected: tuple[str, str]
) -> None:
    route = choose(Contact(**contact), configured=configured, failed=failed)
    assert route == Route(channel=expected[0], address=expected[1])


@pytest.mark.parametrize(
    ("contact", "configured", "failed", "code"),
    [
        ({"email": MAIL, "devices": (PHONE,), "opted_out": True}, ALL, (), "opted_out"),
        ({"email": MAIL, "devices": (PHONE,), "preferred": "none"}, ALL, (), "opted_out"),
        ({"opted_out": True}, (), (), "opted_out"),
        ({}, ALL, (), "no_address"),
        ({"email": ""}, ALL, (), "no_address"),
        ({"preferred": "push"}, ALL, (), "no_address"),
        ({"email": MAIL, "refused_email": MAIL}, ALL, (), "address_refused"),
        ({"email": MAIL}, ("fcm",), (), "channel_not_configured"),
        ({"email": MAIL}, (), (), "channel_not_configured"),
        ({"devices": (PHONE,)}, ("email",), (), "channel_not_configured"),
        ({"email": MAIL}, ALL, ("email",), "every_channel_failed"),
        ({"email": MAIL, "devices": (PHONE,)}, ALL, ("email", "fcm"), "every_channel_failed"),
    ],
)
def test_where_there_is_no_way_to_a_person_the_code_says_why(
    contact: dict[str, Any], configured: tuple[str, ...], failed: tuple[str, ...], code: str
) -> None:
    assert choose(Contact(**contact), configured=configured, failed=failed) == Nobody(code=code)


contacts = st.builds(
    Contact,
    preferred=st.none() | st.sampled_from(CHOICES),
    email=st.none() | st.sampled_from([MAIL, "new@mail.example"]),
    refused_email=st.none() | st.just(MAIL),
    opted_out=st.booleans(),
    devices=st.lists(st.sampled_from([PHONE, TABLET, IPHONE, BROWSER]), max_size=4).map(tuple),
)


@given(contact=contacts, configured=st.sets(st.sampled_from(ALL)), failed=st.sets(st.sampled_from(ALL)))
def test_a_route_always_leads_to_an_address_of_the_person_on_a_channel_that_works(
    contact: Contact, configured: set[str], failed: set[str]
) -> None:
    way = choose(contact, configured=configured, failed=failed)
    usable = {
        (kind, address)
        for kind, address in (*contact.devices, ("email", contact.email))
        if address and kind in configured - failed and (kind != "email" or address != contact.refused_email)
    }
    if isinstance(way, Route):
        assert (way.channel, way.address) in usable
        assert not contact.opted_out
        assert contact.preferred != "none"
    else:
        assert not usable or way.code == "opted_out"


def test_a_route_keeps_its_address_to_itself() -> None:
    assert MAIL not in repr(Route(channel="email", address=MAIL))
