"""The OAuth URIs of the sandbox, good and hostile ones.

A good URI looks like a bank's: https, a host name, ``state`` with 128 random bits. Its host ends in ``.sandbox.example``, which never
resolves (RFC 2606). :func:`localised` turns it into a link to the sandbox's own address.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote

_DOMAIN = "sandbox.example"
_PATH = "/oauth/authorize"
_QUERY = (
    "client_id=b8OikQ4Ep3NuSUrQ13DdvFuwpNx-qqoAsJDVAQCyLkQ"
    f"&redirect_uri={quote(f'https://app.{_DOMAIN}/oauth/redirect_from', safe='')}"
    "&response_type=code&scope=openid&state="
)
# The path must not begin with two slashes: without its origin, ``//evil.example/`` would name another host.
_WINDOW_ORIGIN = re.compile(rf"https://(?:[a-z0-9-]+\.)+{re.escape(_DOMAIN)}(?=/(?!/))", re.IGNORECASE)
_HOST_LABEL = 63


@lru_cache(maxsize=4096)
def bank_host(institution_code: str) -> str:
    """``bank-<institution>.sandbox.example``; characters that a host name may not have become dashes."""
    label = re.sub(r"[^a-z0-9]+", "-", f"bank-{institution_code.lower()}")[:_HOST_LABEL].strip("-")
    return f"{label}.{_DOMAIN}"


def window_uri(institution_code: str, state: str) -> str:
    """A good ``oauth_window_uri``."""
    return f"https://{bank_host(institution_code)}{_PATH}?{_QUERY}{state}"


def localised(text: str, base_url: str) -> str:
    """``text`` in which every link to a simulated bank leads to the sandbox at ``base_url``; path and query are unchanged."""
    return _WINDOW_ORIGIN.sub(lambda _match: base_url, text)


_HOSTILE: dict[str, Callable[[str, str], str]] = {
    "http": lambda host, rest: f"http://{host}{rest}",
    "userinfo": lambda host, rest: f"https://{host}@evil.example{rest}",
    "backslash": lambda host, rest: f"https://evil.example\\@{host}{rest}",
    "ip": lambda _host, rest: f"https://203.0.113.7{rest}",
    "ipv6": lambda _host, rest: f"https://[2001:db8::7]{rest}",
    "decimal_ip": lambda _host, rest: f"https://3405803783{rest}",
    "port": lambda host, rest: f"https://{host}:8443{rest}",
    "javascript": lambda host, rest: f"javascript:alert(1)//{host}{rest}",
    "data": lambda _host, rest: f"data:text/html,<script>alert(1)</script>{rest}",
    "control": lambda host, rest: f"https://{host}/\x00{rest}",
    "newline": lambda host, rest: f"https://{host}/\r\nBcc: everyone@evil.example{rest}",
    "tab": lambda host, rest: f"https://{host}/\t{rest}",
    "space": lambda host, rest: f"https://{host}/ {rest}",
    "quote": lambda host, rest: f'https://{host}/"{rest}',
    "angle": lambda host, rest: f"https://{host}/<b>{rest}",
    "no_host": lambda _host, rest: f"https://{rest}",
    "relative": lambda _host, rest: rest,
    "foreign_host": lambda _host, rest: f"https://evil.example{rest}",
}

#: What ``hostile:KIND`` can ask for. ``foreign_host`` is well-formed, and wrong only if MX_ALLOWED_URI_HOSTS is set.
HOSTILE_KINDS = tuple(_HOSTILE)


def hostile_uri(kind: str, institution_code: str, state: str) -> str:
    """A URI that a client must not pass on."""
    return _HOSTILE[kind](bank_host(institution_code), f"{_PATH}?{_QUERY}{state}")
