"""The real application on a real socket, and its pages parsed as by a browser."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from worker.cli.processes import free_port
from worker.web.app import make_app
from worker.web.protocol import Runner


class Html(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.lang = ""
        self.tags: list[str] = []
        #: The text in each element of these kinds.
        self.texts: dict[str, list[str]] = {"title": [], "h1": [], "h2": [], "button": [], "a": [], "bdi": [], "p": []}
        #: The hidden fields of each form.
        self.forms: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.lang = found["lang"] if tag == "html" else self.lang
        if tag == "form":
            self.forms.append({"method": found.get("method", "get")})
        if tag == "input":
            self.forms[-1][found["name"]] = found["value"]
        self.addresses += [found[name] for name in ("href", "src", "action", "srcset", "data") if name in found]
        if tag in self.texts:
            self.texts[tag].append("")
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    @property
    def h1(self) -> str:
        (heading,) = self.texts["h1"]
        return heading.strip()

    @property
    def buttons(self) -> list[str]:
        return [text.strip() for text in self.texts["button"]]

    def check(self) -> None:
        """Assert what holds for every page: it has one heading, a title and a language, loads nothing and runs no script."""
        assert len(self.texts["h1"]) == 1
        assert self.lang in {"en", "es", "fr"}
        assert self.texts["title"][0].strip()
        assert {"header", "main", "footer"} <= set(self.tags)
        assert not {"script", "iframe", "object", "embed", "img", "video", "audio", "svg", "base"} & set(self.tags)
        assert "style=" not in self.source
        assert not re.search(r"url\(|@import|\bon\w+=", self.source)
        assert [url for url in self.addresses if not url.startswith("data:,")] == []
        assert all(self.buttons)


@dataclass
class Site:
    """A served application, and an HTTP client without cookies."""

    bench: Any
    port: int
    session: aiohttp.ClientSession
    stack: AsyncExitStack = field(repr=False)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, method: str, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, str]:
        """One request; redirects are not followed."""
        async with self.session.request(method, self.base + path, **({"allow_redirects": False} | options)) as response:
            return response, await response.text()

    async def page(self, path: str, *, language: str = "en", status: int = 200) -> Html:
        """GET a page with this status, and check it (:meth:`Html.check`)."""
        response, text = await self.ask("GET", path, headers={"Accept-Language": language})
        assert response.status == status, text
        page = Html(text)
        page.check()
        return page

    async def raw(self, request: bytes) -> bytes:
        """Send bytes on a new connection; returns all bytes that come back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()


SiteFor = Callable[..., Awaitable[Site]]


@pytest.fixture
async def site_for(bench_for: Any, redis_url: str) -> AsyncIterator[SiteFor]:
    """Makes sites: each serves the application with these settings, on loopback."""
    async with AsyncExitStack() as stack:

        async def make(*, bench: Any = None, header_seconds: float = 15.0, **settings: Any) -> Site:
            port = free_port()
            if bench is None:
                given = {
                    "public_base_url": f"http://127.0.0.1:{port}", "app_name": "Ledgerly", "redis_url": redis_url,
                }  # fmt: skip
                bench = await bench_for(**(given | settings))
            runner = Runner(
                make_app(bench.runtime),
                https=bench.runtime.settings.public_base_url.startswith("https:"),
                shutdown_timeout=5,
                header_seconds=header_seconds,
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", port, reuse_port=True).start()
            jar = aiohttp.DummyCookieJar()
            session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
            return Site(bench, port, session, stack)

        yield make
