"""Simulated phones are registered over HTTP. Messages that the real channels send to them are counted by device."""

import datetime as dt
from dataclasses import replace

import pytest

from worker.channels import BadAddress, Bank, DurableLink, Message, Sent
from worker.channels.registry import open_channels

UNTIL = dt.datetime(2026, 4, 3, tzinfo=dt.UTC)
KINDS = ("fcm", "apns", "webpush")


@pytest.fixture
async def sandbox(start, member, tmp_path):
    return await start([member()], phones=tmp_path / "keys")


async def sign_up(sandbox, *devices, expect=200):
    async with sandbox.http.post(sandbox.url("/sandbox/phones"), json={"devices": list(devices)}) as response:
        assert response.status == expect, await response.text()
        return (await response.json())["addresses"] if expect == 200 else await response.text()


@pytest.fixture
async def channels(sandbox, settings_for):
    opened = open_channels(settings_for(**{k.lower(): v for k, v in sandbox.addresses.push.items()}), data_patience=5)
    yield opened
    for channel in opened.values():
        await channel.close()


async def dispatching():
    pass


def message(address, key="m1"):
    since = dt.datetime(2026, 3, 3, tzinfo=dt.UTC)
    bank = Bank(name="First Bank", since=since, link="https://bank.example/")
    return Message(key=key, address=address, locale="fr-CA", time_zone=dt.UTC, step=0, banks=(bank,))


async def test_every_kind_of_device_gets_what_is_sent_to_it(sandbox, channels):
    assert set(channels) == set(KINDS)
    addresses = await sign_up(sandbox, *({"kind": kind} for kind in KINDS for _ in range(2)))
    for kind, address in zip(KINDS, addresses[::2], strict=True):
        assert isinstance(await channels[kind].send(message(address), dispatching), Sent)
    found = await sandbox.json("/sandbox/phones.json")
    assert found == {"count": 3, "told": {address: 1 - number % 2 for number, address in enumerate(addresses)}}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_app_has_the_link_of_its_newest_message(sandbox, channels, kind):
    (address,) = await sign_up(sandbox, {"kind": kind})
    for key in ("m1", "m2"):
        link = DurableLink(page=f"https://app.example/r/{key}", unsubscribe="https://app.example/u/x", until=UNTIL)
        assert isinstance(await channels[kind].send(replace(message(address, key), link=link), dispatching), Sent)
    async with sandbox.get("/sandbox/phones/latest.json", headers={}, params={"address": address}) as response:
        assert await response.json() == {"message_key": "m2", "link": "https://app.example/r/m2"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_whose_app_was_removed_is_a_bad_address(sandbox, channels, kind):
    (address,) = await sign_up(sandbox, {"kind": kind, "gone": True})
    assert isinstance(await channels[kind].send(message(address), dispatching), BadAddress)
    assert (await sandbox.json("/sandbox/phones.json"))["count"] == 0


async def test_a_phone_may_bring_its_own_token(sandbox, channels):
    assert await sign_up(sandbox, {"kind": "fcm", "token": "phone-1"}) == ["phone-1"]
    assert isinstance(await channels["fcm"].send(message("phone-1"), dispatching), Sent)


@pytest.mark.parametrize(
    "device", [{"kind": "pager"}, {"kind": "webpush", "token": "t"}, {"kind": "fcm", "name": "x"}, {}]
)
async def test_a_device_that_cannot_be_is_refused(sandbox, device):
    assert "devices" in await sign_up(sandbox, device, expect=400)


async def test_a_sandbox_without_phones_has_none(start, member):
    sandbox = await start([member()])
    assert sandbox.addresses.push == {}
    async with sandbox.http.get(sandbox.url("/sandbox/phones.json")) as response:
        assert response.status == 404
