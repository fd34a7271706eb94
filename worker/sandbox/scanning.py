"""A mail scanner, as companies have: it opens every link of an arriving mail with GET, before the recipient reads it.

It opens only links to simulated banks and links on loopback, where a worker under development may serve them.
"""

import email
import email.policy
import ipaddress
import re
from email.message import EmailMessage
from html import unescape
from urllib.parse import urlsplit

import aiohttp

from worker.sandbox.oauth_uris import localised

_LINK = re.compile(r"https?://[^\s\"'<>]{1,4000}")
_MOST_LINKS = 100
_PATIENCE = aiohttp.ClientTimeout(total=5)


class Scanner:
    """Opens links, if it is switched on. ``base_url`` is the sandbox's own address, known once it listens."""

    def __init__(self) -> None:
        self.on = False
        self.base_url = ""

    async def scan(self, content: bytes) -> None:
        """Open every link of a mail and ignore the answers."""
        if not self.on:
            return
        async with aiohttp.ClientSession(timeout=_PATIENCE, headers={"User-Agent": "sandbox-mail-scanner"}) as session:
            for link in links_in(content, self.base_url):
                try:
                    async with session.get(link, allow_redirects=False) as response:
                        await response.read()
                except (aiohttp.ClientError, TimeoutError, ValueError):
                    continue


def links_in(content: bytes, base_url: str) -> list[str]:
    """The links of a mail that the scanner may open, each once."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    text = " ".join(unescape(_text(part)) for part in message.walk() if part.get_content_maintype() == "text")
    links = dict.fromkeys(localised(link, base_url) for link in _LINK.findall(text))
    return [link for link in links if _is_loopback(link)][:_MOST_LINKS]


def _text(part: EmailMessage) -> str:
    try:
        return str(part.get_content())
    except (LookupError, UnicodeError):
        return ""


def _is_loopback(link: str) -> bool:
    try:
        return ipaddress.ip_address(urlsplit(link).hostname or "").is_loopback
    except ValueError:
        return False
