"""Watches what a browser does without showing it: requests, cookies, violations of the Content-Security-Policy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Request, Response

from ops.browser.place import PUBLIC

#: Chromium writes this for a page of ours whose status is 404, 429 or 503.
_A_STATUS = "Failed to load resource: the server responded with a status of"


class Watched:
    """One customer's new browser profile, watched."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.problems: list[str] = []
        #: The host of every request, in order.
        self.hosts: list[str] = []
        context.on("request", self._asked)
        context.on("response", self._answered)
        context.on("requestfailed", self._failed)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.problems.append(f"script error: {error.error}"))

    def end(self) -> list[str]:
        """End the watch; return all problems, including cookies."""
        cookies = sorted({f"{cookie['domain']} set a cookie" for cookie in self.context.cookies()})
        return [*dict.fromkeys(self.problems), *cookies]

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme == "data":
            return
        host = parts.hostname or parts.scheme
        self.hosts.append(host)
        if not (host in {PUBLIC, "127.0.0.1", "localhost", "::1"} or host.endswith(".sandbox.example")):
            self.problems.append(f"a request to {host}")
        if request.resource_type != "document" and host == PUBLIC:
            self.problems.append(f"our page loads a {request.resource_type}")

    def _answered(self, response: Response) -> None:
        headers: dict[str, str] = response.headers
        if urlsplit(response.url).hostname == PUBLIC and "set-cookie" in headers:
            self.problems.append("we set a cookie")

    def _failed(self, request: Request) -> None:
        self.problems.append(f"no answer from {urlsplit(request.url).hostname}: {request.failure}")

    def _said(self, message: ConsoleMessage) -> None:
        # The mailbox's frame allows no script, so Chromium reports the script that reads the focus.
        of_the_mailbox = "/sandbox/mail/" in message.text
        if message.type in {"error", "warning"} and not message.text.startswith(_A_STATUS) and not of_the_mailbox:
            self.problems.append(f"console: {message.text[:160]}")


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Watched]:
    """A new profile, like a browser that never visited our pages."""
    context = browser.new_context(**options)
    context.set_default_timeout(20_000)
    try:
        yield Watched(context)
    finally:
        context.close()
