"""The actions of the demonstration's customers, over HTTP as from their browsers and apps.

They register a phone, read their mail or a push message, open its link, press the buttons of our page for their banks, and allow at the
bank. If the message has MX's own links, those lead to the bank directly. :class:`Saw` is where a customer ended.
"""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from html import unescape
from http import HTTPStatus
from typing import Any

import aiohttp

from worker.errors import WorkerError
from worker.sandbox.browsing import Form, Seen, Visitor

#: A link to a bank, or to our own page.
_LINK = re.compile(r'href="([^"]+/(?:oauth/authorize\?|r/)[^"]+)"')
_ALLOW = ("decision", "allow")


class Saw(StrEnum):
    """Where a customer ended who followed the link of a message."""

    CONSENT = "a live consent page"
    DEAD = "a dead link at the bank"
    TRY_AGAIN = "try again in a moment"
    TOO_MANY = "try again later"
    BACK = "connected already"
    UNKNOWN = "a link that is unknown or expired"
    NOTHING = "no answer, or an error"


class Customers:
    """All customers of the sandbox at ``base_url``."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url

    async def sign_up(self, devices: Sequence[dict[str, Any]]) -> list[str]:
        """Register devices; returns their addresses (worker/sandbox/phones/network.py)."""
        url = f"{self._base_url}/sandbox/phones"
        async with self._session.post(url, json={"devices": devices}) as response:
            _expect(response)
            return list((await response.json())["addresses"])

    async def control(self, **command: Any) -> None:
        """Change the sandbox (worker/sandbox/control.py)."""
        async with self._session.post(f"{self._base_url}/sandbox/control", json=command) as response:
            _expect(response)

    async def mails(self) -> Counter[str]:
        """How many mails arrived, by address."""
        return Counter((await self._json("/sandbox/mail.json?mails=false"))["recipients"])

    async def pushes(self) -> Counter[str]:
        """How many push messages arrived, by the device's address."""
        return Counter((await self._json("/sandbox/phones.json"))["told"])

    async def scans(self) -> dict[str, dict[str, int]]:
        """What mail scanners of each kind did."""
        return dict(await self._json("/sandbox/scans.json"))

    async def read_mail(self, email: str, mail: int) -> list[str]:
        """The links of a mail. Mail 1 is the first to this address."""
        found = await self._json("/sandbox/mail.json", to=email)
        number = found["mails"][mail - 1]["number"]
        async with self._session.get(f"{self._base_url}/sandbox/mail/{number}/html") as response:
            _expect(response)
            return list(dict.fromkeys(map(unescape, _LINK.findall(await response.text()))))

    async def read_push(self, address: str) -> list[str]:
        """The link of the newest push message to a device; empty if the app opens its own list."""
        link = (await self._json("/sandbox/phones/latest.json", address=address))["link"]
        return [link] if link else []

    async def click(self, who: str, link: str, *, twice: bool = False) -> list[Saw]:
        """Open a link, press the button of each bank on our page, and allow at the bank; returns what they saw, bank by bank.

        ``who`` decides the customer's network address. ``twice``: they double-click each button.
        """
        visitor = Visitor(self._session, self._base_url, headers={"X-Forwarded-For": _network_of(who)})
        page = await visitor.open(link)
        if page.is_bank:
            return [await self._at_bank(visitor, page)]
        forms = [form for form in page.forms() if form.method == "POST"]
        if not forms:
            return [_what_our_page_says(page)]
        return [await self._at_bank(visitor, await self._press(visitor, form, twice=twice)) for form in forms]

    async def _press(self, visitor: Visitor, form: Form, *, twice: bool) -> Seen:
        if not twice:
            return await visitor.press(form)
        # A browser drops the answer to the first press of a double click, and follows the answer to the second.
        _, second = await asyncio.gather(*(visitor.press(form, follow=False) for _ in range(2)))
        return await visitor.follow(second)

    async def _at_bank(self, visitor: Visitor, page: Seen) -> Saw:
        if not page.is_bank:
            return _what_our_page_says(page)
        if not page.is_consent_page:
            return Saw.DEAD
        (form,) = page.forms()
        outcome = await visitor.press(form, form.buttons.index(_ALLOW))
        if outcome.is_bank and outcome.status != HTTPStatus.OK:
            return Saw.DEAD
        return Saw.CONSENT

    async def _json(self, path: str, **query: str) -> Any:
        async with self._session.get(self._base_url + path, params=query) as response:
            _expect(response)
            return await response.json()


def _what_our_page_says(page: Seen) -> Saw:
    match page.status:
        case HTTPStatus.OK:
            return Saw.BACK
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return Saw.TRY_AGAIN
        case HTTPStatus.TOO_MANY_REQUESTS:
            return Saw.TOO_MANY
        case HTTPStatus.NOT_FOUND:
            return Saw.UNKNOWN
    return Saw.NOTHING


def _network_of(who: str) -> str:
    """An address for each customer, always the same (RFC 3849, for documentation)."""
    octets = hashlib.sha256(who.encode()).hexdigest()
    return f"2001:db8:{octets[:4]}:{octets[4:8]}::1"


def _expect(response: aiohttp.ClientResponse) -> None:
    if response.status != HTTPStatus.OK:  # without the URL, which may be a link
        raise WorkerError(f"sandbox: a customer's request got status {response.status}")
