"""Resolves host names, but returns only public addresses.

This is the second protection against a subscription that points into a private network (SSRF); the first is the list of known
hosts. No connection is made to a private, loopback, link-local or otherwise special address, whatever DNS answers. The connector
uses the addresses that were checked here, so a second DNS answer cannot replace them.
"""

import ipaddress
import socket

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from worker.channels.push.http import NonPublicAddress


class PublicResolver(AbstractResolver):
    """The system's resolver, without the addresses that are not public."""

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The public addresses; raises :class:`NonPublicAddress` if the host has only others."""
        resolved = await ThreadedResolver().resolve(host, port, family)
        public = [result for result in resolved if self._is_allowed(result["host"])]
        if resolved and not public:
            raise NonPublicAddress
        return public

    async def close(self) -> None:
        """Nothing to close."""

    def _is_allowed(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        if address.is_loopback:
            return self._allow_loopback
        return address.is_global and not address.is_multicast
