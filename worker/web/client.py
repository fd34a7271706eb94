"""The client of a request: its address behind proxies, and the host that it asked for."""

import ipaddress
import re
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The length of an IPv6 prefix that counts as one client. A network gets at least a /64, so a limit for single addresses would not work.
_CUSTOMER = 64

_PORTS = {"http": 80, "https": 443}
_PORT = re.compile(r"[0-9]{1,5}")


class Clients:
    """Finds the client's address. ``X-Forwarded-For`` is believed only if it comes from a proxy of ``FORWARDED_ALLOW_IPS``."""

    def __init__(self, proxies: Collection[str]) -> None:
        self._proxies: tuple[Network, ...] = tuple(map(ipaddress.ip_network, proxies))

    def of(self, peer: str | None, forwarded: Sequence[str]) -> str | None:
        """The client of a connection from ``peer`` with these ``X-Forwarded-For`` headers; for IPv6 its /64.

        It is the first address from the right that is not our proxy. The client may have invented everything to the left of it.
        ``None`` if a proxy sends no address. Then clients cannot be told apart, and a limit per address would be one limit for all of them.
        """
        address = _parsed(peer or "")
        if address is None or not self._is_proxy(address):
            return _shown(address)
        for word in reversed(",".join(forwarded).split(",")):
            address = _parsed(word.strip())
            if address is None:
                return None
            if not self._is_proxy(address):
                return _shown(address)
        return None

    def _is_proxy(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._proxies)


def _parsed(word: str) -> Address | None:
    """Parses ``192.0.2.1``, ``192.0.2.1:50000``, ``2001:db8::1``, ``[2001:db8::1]:50000``; a mapped address becomes IPv4."""
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        address = ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _shown(address: Address | None) -> str | None:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _CUSTOMER), strict=False).network_address)
    return None if address is None else str(address)


class PublicHost:
    """The host of ``PUBLIC_BASE_URL``, as a ``Host`` header gives it."""

    def __init__(self, base_url: str) -> None:
        self._scheme = urlsplit(base_url).scheme.lower()
        self._host = self._normal(urlsplit(base_url).netloc)

    def is_meant(self, hosts: Sequence[str]) -> bool:
        """Whether there is exactly one ``Host`` header, and it names our host."""
        return len(hosts) == 1 and self._normal(hosts[0]) == self._host

    def _normal(self, host: str) -> str:
        host = host.strip().lower()
        name, colon, port = host.rpartition(":")
        if not colon or not _PORT.fullmatch(port) or (name.startswith("[") and not name.endswith("]")):
            name, port = host, ""
        name = name.rstrip(".")
        if not name.isascii():
            name = name.encode("idna").decode() if _encodable(name) else name
        return f"{name}:{port}" if port and int(port) != _PORTS.get(self._scheme) else name


def _encodable(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True
