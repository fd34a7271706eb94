"""A minimal browser without JavaScript for the sandbox's customers and mail scanners: links, redirects, forms.

It opens only simulated banks and addresses on loopback, where a worker under development may serve its pages.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from http import HTTPStatus
from urllib.parse import urldefrag, urlencode, urljoin, urlsplit

import aiohttp
from yarl import URL

from worker.sandbox.oauth_uris import localised

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: After a redirect with one of these, the method and the body stay.
_UNCHANGED = frozenset({307, 308})
_MOST_REDIRECTS = 20
_PATIENCE = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of a page."""

    method: str
    url: str = field(repr=False)
    #: Its hidden fields.
    fields: Mapping[str, str] = field(repr=False)
    #: Name and value of each button; both are empty if it has no name.
    buttons: tuple[tuple[str, str], ...]

    def filled(self, button: int = 0) -> dict[str, str]:
        """The fields that a press of this button sends."""
        name, value = self.buttons[button] if self.buttons else ("", "")
        return {**self.fields, **({name: value} if name else {})}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The page at which a visit ended, or a redirect that was not followed."""

    url: str = field(repr=False)
    #: The HTTP status. 0: no answer came, or the address is not on loopback.
    status: int
    html: str = field(default="", repr=False)
    #: The target of a redirect that was not followed.
    location: str | None = field(default=None, repr=False)

    @property
    def is_bank(self) -> bool:
        """Whether a simulated bank or one of its redirects answered."""
        return urlsplit(self.url).path.startswith("/oauth/")

    @property
    def is_consent_page(self) -> bool:
        """Whether a bank asks for consent here; a used or expired link shows another page."""
        return self.is_bank and self.status == HTTPStatus.OK and bool(self.forms())

    def forms(self) -> list[Form]:
        """The page's forms."""
        return self._page.forms

    @property
    def refresh(self) -> str | None:
        """The target of ``<meta http-equiv=refresh>``."""
        return self._page.refresh

    @property
    def submits_itself(self) -> bool:
        """Whether a script in the page submits a form without a press of a button."""
        return self._page.submits_itself

    @cached_property
    def _page(self) -> "_Page":
        page = _Page(self.url)
        page.feed(self.html)
        page.close()
        return page


class Visitor:
    """Opens pages and presses buttons. ``base_url`` is the sandbox's own address."""

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        self._session = session
        self._base_url = base_url
        self._headers = dict(headers or {})

    async def open(self, url: str, *, method: str = "GET", follow: bool = True) -> Seen:
        """The page behind a link."""
        return await self._visit(method, url, None, follow=follow)

    async def press(self, form: Form, button: int = 0, *, follow: bool = True) -> Seen:
        """The page behind a form's button."""
        return await self._visit(form.method, form.url, form.filled(button), follow=follow)

    async def follow(self, seen: Seen) -> Seen:
        """The page behind a redirect that was not followed yet; any other page is returned as it is."""
        return seen if seen.location is None else await self.open(urljoin(seen.url, seen.location))

    async def _visit(self, method: str, url: str, form: Mapping[str, str] | None, *, follow: bool) -> Seen:
        seen = await self._ask(method, url, form)
        for _ in range(_MOST_REDIRECTS if follow else 0):
            onward = seen.location if seen.location is not None else seen.refresh
            if onward is None:
                break
            if seen.status not in _UNCHANGED:
                method, form = "HEAD" if method == "HEAD" else "GET", None
            seen = await self._ask(method, urljoin(seen.url, onward), form)
        return seen

    async def _ask(self, method: str, url: str, form: Mapping[str, str] | None) -> Seen:
        url = localised(urldefrag(url).url, self._base_url)
        if not is_loopback(url):
            return Seen(url=url, status=0)
        if form is not None and method == "GET":
            url, form = f"{url.partition('?')[0]}?{urlencode(form)}", None
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                data=form,
                allow_redirects=False,
                headers=self._headers,
                timeout=_PATIENCE,
            ) as response:
                html = await response.text(errors="replace")
                location = response.headers.get("Location") if response.status in _REDIRECTS else None
                return Seen(url=url, status=response.status, html=html, location=location)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return Seen(url=url, status=0)


def is_loopback(url: str) -> bool:
    """Whether this is an http or https address on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme in {"http", "https"} and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


class _Page(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.forms: list[Form] = []
        self.refresh: str | None = None
        self.submits_itself = False
        self._open: tuple[str, str, dict[str, str], list[tuple[str, str]]] | None = None
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.submits_itself |= "submit(" in found.get("onload", "")
        match tag:
            case "form":
                action = urljoin(self._url, found.get("action", "")) or self._url
                self._open = found.get("method", "get").upper(), action, {}, []
            case "input" if self._open is not None and found.get("name") and found.get("type") == "hidden":
                self._open[2][found["name"]] = found.get("value", "")
            case "button" if self._open is not None and found.get("type", "submit") == "submit":
                self._open[3].append((found.get("name", ""), found.get("value", "")))
            case "meta" if found.get("http-equiv", "").lower() == "refresh":
                _, _, target = found.get("content", "").partition("=")
                self.refresh = target.strip("'\" ") or None
            case "script":
                self._in_script = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self._open is not None:
            method, url, fields, buttons = self._open
            self.forms.append(Form(method=method, url=url, fields=fields, buttons=tuple(buttons)))
            self._open = None
        self._in_script &= tag != "script"

    def handle_data(self, data: str) -> None:
        self.submits_itself |= self._in_script and ".submit(" in data
