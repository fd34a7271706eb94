"""The headers of every answer, also of errors."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache

POLICY = "Content-Security-Policy"

#: No ``form-action``: browsers apply it to each hop of the redirect after a form's POST, so it would block the way to the bank. It
#: does not fall back to ``default-src``.
_POLICY = "default-src 'none'; {}img-src data:; base-uri 'none'; frame-ancestors 'none'"
_OPEN, _CLOSE = "<style>", "</style>"


def common_headers(*, https: bool) -> Mapping[str, str]:
    """The headers by name. ``https``: whether the public address is https."""
    headers = {
        "Cache-Control": "no-store",
        POLICY: _POLICY.format(""),
        "Referrer-Policy": "no-referrer",
        "Server": "reconnect",  # else aiohttp's and Python's versions
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
    }
    if https:
        headers["Strict-Transport-Security"] = "max-age=63072000"
    return headers


def policy_for(html: str) -> str:
    """The Content-Security-Policy of a page. It allows the page's own ``<style>`` elements, by their hashes, and ``data:`` images."""
    hashes = " ".join(f"'sha256-{_hash(style)}'" for style in dict.fromkeys(_styles(html)))
    return _POLICY.format(f"style-src {hashes}; " if hashes else "")


def _styles(html: str) -> Iterator[str]:
    start = html.find(_OPEN)
    while start >= 0:  # a regular expression takes ten times as long
        start += len(_OPEN)
        end = html.find(_CLOSE, start)
        if end < 0:
            return
        yield html[start:end]
        start = html.find(_OPEN, end)


@lru_cache(maxsize=64)  # our style, and perhaps a tenant's
def _hash(style: str) -> str:
    # A browser hashes the parsed text, in which each line ends with LF.
    text = style.replace("\r\n", "\n").replace("\r", "\n")
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
