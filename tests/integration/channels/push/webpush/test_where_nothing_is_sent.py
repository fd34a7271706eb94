"""The endpoint comes from a browser, so anybody can choose it: nothing is ever sent to a host that is no push service."""

import pytest

from worker.channels import BadAddress, Failed
from worker.channels.push.http import PRIVATE_ADDRESS, NonPublicAddress, Poster
from worker.channels.push.webpush.public_resolver import PublicResolver
from worker.sandbox.phones.browser import Browser


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("", "subscription_malformed"),
        ("https://fcm.googleapis.com/fcm/send/abc", "subscription_malformed"),
        ("[]", "subscription_malformed"),
        ('{"endpoint": "https://fcm.googleapis.com/x"}', "subscription_malformed"),
    ],
)
async def test_what_is_no_subscription_is_a_bad_address(service, connect, make_message, record, address, code):  # noqa: PLR0917
    assert await connect().send(make_message(address=address), record) == BadAddress(code=code)
    assert (service.requests, record.times) == ([], 0)


async def test_this_machine_is_no_push_service_unless_that_was_chosen(service, connect, make_message, record):
    outcome = await connect(allow_loopback=False).send(make_message(), record)
    assert outcome == BadAddress(code="endpoint_not_https")
    tls = make_message(address=Browser(service.url.replace("http:", "https:")).subscription())
    assert isinstance(await connect(allow_loopback=False).send(tls, record), BadAddress)
    assert (service.requests, record.times) == ([], 0)


async def test_an_unknown_host_is_refused_without_blaming_the_address(connect, make_message, record):
    message = make_message(address=Browser("https://push.evil.example/x").subscription())
    assert await connect().send(message, record) == Failed(code="endpoint_host_not_allowed")
    assert record.times == 0


async def test_a_name_that_leads_inside_is_not_connected_to(service):
    poster = Poster(patience=10.0, resolver=PublicResolver())
    try:
        outcome = await poster.post(service.url.replace("127.0.0.1", "localhost"), headers={}, body=b"x")
    finally:
        await poster.close()
    assert outcome.code == PRIVATE_ADDRESS
    assert not service.requests


async def test_a_name_that_leads_inside_has_no_address():
    with pytest.raises(NonPublicAddress):
        await PublicResolver().resolve("localhost", 443)
    assert await PublicResolver(allow_loopback=True).resolve("localhost", 443)
