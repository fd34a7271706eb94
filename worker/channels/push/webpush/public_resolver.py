"""Names, but only those that lead to the public internet.

A known host name is one half of the defence against a subscription that points inside (SSRF); this is the other: whatever DNS
says of a name, no connection is made to a private, loopback, link-local or otherwise special address. The connector connects
to the very addresses that passed here, so a second answer of DNS cannot change them.
"""

import ipaddress
import socket

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from worker.channels.push.http import RefusedAddress


class PublicResolver(AbstractResolver):
    """The system's resolver, less what is not public."""

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Public addresses; raises :class:`RefusedAddress` where there are only others."""
        found = await ThreadedResolver().resolve(host, port, family)
        public = [result for result in found if self._is_allowed(result["host"])]
        if found and not public:
            raise RefusedAddress
        return public

    async def close(self) -> None:
        """Nothing is kept."""

    def _is_allowed(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        if address.is_loopback:
            return self._allow_loopback
        return address.is_global and not address.is_multicast
