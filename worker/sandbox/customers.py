"""What the demonstration's customers do, over HTTP as their browsers and apps would.

They register a phone, read their mail, open the link in it, and allow.
"""

import re
from collections import Counter
from collections.abc import Sequence
from html import unescape
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp

from worker.errors import WorkerError

_LINK = re.compile(r'href="([^"]+/oauth/authorize\?[^"]+)"')


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

    async def mails(self) -> Counter[str]:
        """How many mails arrived, by address."""
        return Counter((await self._json("/sandbox/mail.json?mails=false"))["recipients"])

    async def pushes(self) -> Counter[str]:
        """How many push messages arrived, by the device's address."""
        return Counter((await self._json("/sandbox/phones.json"))["told"])

    async def allow(self, email: str, mail: int) -> int:
        """Open every link in a mail and allow on the bank's page; returns the number of links. Mail 1 is the first to this address."""
        found = await self._json("/sandbox/mail.json", to=email)
        number = found["mails"][mail - 1]["number"]
        async with self._session.get(f"{self._base_url}/sandbox/mail/{number}/html") as response:
            _expect(response)
            links = dict.fromkeys(map(unescape, _LINK.findall(await response.text())))
        for link in links:
            async with self._session.get(link) as page:
                _expect(page)
            parts = urlsplit(link)
            form = {"state": parse_qs(parts.query)["state"][0], "decision": "allow"}
            async with self._session.post(parts._replace(query="").geturl(), data=form) as outcome:
                _expect(outcome)
        return len(links)

    async def _json(self, path: str, **query: str) -> Any:
        async with self._session.get(self._base_url + path, params=query) as response:
            _expect(response)
            return await response.json()


def _expect(response: aiohttp.ClientResponse) -> None:
    if response.status != HTTPStatus.OK:  # without the URL, which may be a link
        raise WorkerError(f"sandbox: a customer's request got status {response.status}")
