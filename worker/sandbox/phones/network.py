"""All phones and browsers of a sandbox: registers devices and counts the messages that reach them.

``POST /sandbox/phones`` with ``{"devices": [{"kind": "fcm"}, …]}`` gives each device an address, as an app gets one from its
provider. ``"gone": true`` makes a device whose app was removed. ``GET /sandbox/phones.json`` counts messages by address, and
``GET /sandbox/phones/latest.json?address=…`` shows what the app got with the newest message to an address.
"""

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.sandbox.phones.apple import KEY_ID, TEAM_ID, TOPIC, Apple
from worker.sandbox.phones.browser import Browser, point_of
from worker.sandbox.phones.credentials import make_credentials
from worker.sandbox.phones.google import Google
from worker.sandbox.phones.push_service import PushService
from worker.sandbox.problems import one_line

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
_ENDPOINTS = "/wpush/v2/"


class Device(BaseModel):
    """One device to register."""

    model_config = _STRICT

    kind: Literal["fcm", "apns", "webpush"]
    #: The app was removed: the provider refuses messages.
    gone: bool = False
    #: The token to use instead of a new one. A browser's subscription contains keys, so it is always new.
    token: Annotated[str, Field(min_length=1, max_length=4096)] | None = None

    @model_validator(mode="after")
    def _token_is_possible(self) -> Self:
        if self.kind == "webpush" and self.token is not None:
            raise ValueError("a browser's subscription is always new: no token")
        return self


class _SignUp(BaseModel):
    model_config = _STRICT

    devices: list[Device]


class Phones:
    """FCM, APNs and a Web Push service. ``base_url`` is the sandbox's own address."""

    def __init__(self, folder: Path) -> None:
        """Writes the sender's keys to ``folder``; raises ``OSError`` if they cannot be written."""
        self._keys = make_credentials(folder)
        self.google = Google(self._keys.service_account.public_key())
        self.apple = Apple(self._keys.apns.public_key())
        self.push_service = PushService(point_of(self._keys.vapid))
        #: (kind, token) of an address.
        self._known: dict[str, tuple[str, str]] = {}
        self._browsers: dict[str, Browser] = {}
        self.base_url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run APNs' own server. The other services answer on the sandbox's."""
        async with self.apple.running():
            try:
                yield
            finally:
                self.google.closing.set()
                self.push_service.closing.set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/sandbox/phones", self._sign_up),
            web.get("/sandbox/phones.json", self._count),
            web.get("/sandbox/phones/latest.json", self._latest),
            web.post("/token", self.google.token),
            web.post("/v1/projects/{project}/messages:send", self.google.send),
            web.post(f"{_ENDPOINTS}{{token}}", self.push_service.handle),
        ]

    def settings(self) -> dict[str, str]:
        """The settings with which a worker uses these services."""
        return {
            "FCM_SERVICE_ACCOUNT_FILE": str(self._keys.service_account_file.resolve()),
            "FCM_BASE_URL": self.base_url,
            "FCM_TOKEN_URI": f"{self.base_url}/token",
            "APNS_KEY_FILE": str(self._keys.apns_key_file.resolve()),
            "APNS_KEY_ID": KEY_ID,
            "APNS_TEAM_ID": TEAM_ID,
            "APNS_TOPIC": TOPIC,
            "APNS_BASE_URL": self.apple.url,
            "WEBPUSH_VAPID_KEY_FILE": str(self._keys.vapid_key_file.resolve()),
            "WEBPUSH_CONTACT": "mailto:push@ledgerly.example",
            "WEBPUSH_ALLOW_LOOPBACK": "true",
        }

    def sign_up(self, device: Device) -> str:
        """Register a device; returns its address."""
        token = device.token or secrets.token_hex(32)
        address = token
        match device.kind:
            case "fcm":
                (self.google.gone if device.gone else self.google.devices).add(token)
            case "apns":
                (self.apple.gone if device.gone else self.apple.devices).add(token)
            case "webpush":
                (self.push_service.gone if device.gone else self.push_service.tokens).add(token)
                self._browsers[token] = Browser(f"{self.base_url}{_ENDPOINTS}{token}")
                address = self._browsers[token].subscription()
        self._known[address] = device.kind, token
        return address

    def delivered(self) -> Counter[str]:
        """How many messages each device got, by its address."""
        by_kind = {"fcm": self.google.delivered, "apns": self.apple.delivered, "webpush": self.push_service.delivered}
        return Counter({address: by_kind[kind][token] for address, (kind, token) in self._known.items()})

    async def _sign_up(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":  # a foreign web page cannot send it without a CORS preflight
            raise web.HTTPUnsupportedMediaType(text="application/json is expected")
        try:
            asked = _SignUp.model_validate_json(await request.read())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=one_line(error, ("devices",))) from None
        return web.json_response({"addresses": [self.sign_up(device) for device in asked.devices]})

    async def _count(self, _request: web.Request) -> web.Response:
        delivered = self.delivered()
        return web.json_response({"count": delivered.total(), "told": delivered})

    async def _latest(self, request: web.Request) -> web.Response:
        kind, token = self._known.get(request.query.get("address", ""), ("", ""))
        found: Mapping[str, Any] | None = None
        match kind:
            case "fcm":
                found = self.google.latest.get(token)
            case "apns":
                found = self.apple.latest.get(token)
            case "webpush" if token in self.push_service.latest:
                found = self._browsers[token].read(self.push_service.latest[token])["data"]
        if found is None:
            raise web.HTTPNotFound(text="No such device, or no message to it.")
        return web.json_response({"message_key": found.get("message_key"), "link": found.get("link")})
