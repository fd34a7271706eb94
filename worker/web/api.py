"""``/api/v1``: what a user has to reconnect, for a banner in the company's own app; and opting a user out.

It is for the company's server, not for browsers: there is no CORS, and one key gives access to all users. :mod:`worker.web.openapi` describes it.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import hdrs, web
from pydantic import SecretStr

from worker.display_names import shown
from worker.mx.identifiers import names_user
from worker.policy.links import BankState
from worker.runtime import Runtime
from worker.stages.to_reconnect import BrokenBank, ToReconnect, opt_out, to_reconnect
from worker.web.client import Clients
from worker.web.limits import Limit, Limits, derived_key
from worker.web.openapi import document
from worker.web.overload import MOST_FOR_PROGRAMS, Overload
from worker.web.problems import problem

API = "/api/v1"
DOCUMENT = f"{API}/openapi.json"
RECONNECTIONS = f"{API}/users/{{user_guid}}/reconnections"
OPTOUT = f"{API}/users/{{user_guid}}/optout"

_STATES = {BankState.BROKEN: "broken", BankState.AHEAD: "expires_soon"}


class Keys:
    """``API_KEYS``. The digest of a key is compared with the digest of each, so the time does not reveal how much of the key was right."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._digests = [_digest(key.get_secret_value()) for key in keys]

    def place_of(self, request: web.Request) -> int | None:
        """Which key the request carries, counted from 0; ``None`` if none of them."""
        authorizations = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, key = authorizations[0].partition(" ") if len(authorizations) == 1 else ("", "", "")
        digest = _digest(key.strip())
        fits = [hmac.compare_digest(digest, each) for each in self._digests]
        return fits.index(True) if scheme.lower() == "bearer" and any(fits) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class ApiRoutes:
    """The handlers."""

    def __init__(self, runtime: Runtime, clients: Clients, limits: Limits, overload: Overload) -> None:
        settings = runtime.settings
        self._runtime = runtime
        self._clients = clients
        self._limits = limits
        self._overload = overload
        self._keys = Keys(settings.api_keys)
        self._link_key = derived_key(settings, "api link")
        self._document = document(settings.public_base_url or "")

    def add_to(self, app: web.Application, at: str) -> None:
        """Add the routes under the prefix ``at``."""
        app.router.add_get(f"{at}{DOCUMENT}", self.describe)
        app.router.add_get(f"{at}{RECONNECTIONS}", self.reconnections, allow_head=False)
        app.router.add_post(f"{at}{OPTOUT}", self.optout)

    async def describe(self, request: web.Request) -> web.Response:
        """The OpenAPI document, for everybody."""
        if (refusal := await self._too_many(request, Limit.VIEWS)) is not None:
            return refusal
        return web.json_response(self._document)

    async def reconnections(self, request: web.Request) -> web.Response:
        """What a user has to reconnect now."""
        if (refusal := await self._refusal(request)) is not None:
            return refusal
        guid = request.match_info["user_guid"]
        reconnections = await to_reconnect(self._runtime, guid, key=self._link_key) if self._is_user(guid) else None
        return _unknown_user() if reconnections is None else web.json_response(_answer(guid, reconnections))

    async def optout(self, request: web.Request) -> web.Response:
        """Send a user no more messages. Repeating it is harmless."""
        if (refusal := await self._refusal(request)) is not None:
            return refusal
        guid = request.match_info["user_guid"]
        if not self._is_user(guid) or not await opt_out(self._runtime, guid):
            return _unknown_user()
        return web.json_response({"user_guid": guid, "opted_out": True})

    def _is_user(self, guid: str) -> bool:
        return names_user(guid, own_ids=self._runtime.settings.own_ids)

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """401 or 429; ``None`` for a request that is allowed. Raises :class:`TurnedAway` while too many transactions run."""
        key_number = self._keys.place_of(request)
        if key_number is None:
            refusal = await self._too_many(request, Limit.UNAUTHORISED)
            if refusal is None:
                refusal = problem(401, "The request needs a key: Authorization: Bearer KEY, one of API_KEYS.")
                refusal.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            return refusal
        wait = await self._limits.wait(Limit.API, f"key {key_number}")
        if wait is None:
            wait = await self._limits.wait(Limit.API_USER, request.match_info["user_guid"])
        if wait is not None:
            return problem(429, "Too many requests.", retry_after=wait)
        self._overload.check(limit=MOST_FOR_PROGRAMS)
        return None

    async def _too_many(self, request: web.Request, limit: Limit) -> web.Response | None:
        address = self._clients.of(request.remote, request.headers.getall(hdrs.X_FORWARDED_FOR, []))
        wait = None if address is None else await self._limits.wait(limit, address)
        return None if wait is None else problem(429, "Too many requests.", retry_after=wait)


def _unknown_user() -> web.Response:
    return problem(404, "No such user: it is in neither `users` nor `members`, or, for an opt-out, not in `users`.")


def _answer(guid: str, reconnections: ToReconnect) -> dict[str, Any]:
    link = reconnections.link
    return {
        "user_guid": guid,
        "reconnections": [_bank(bank) for bank in reconnections.banks],
        "link": link.page if link is not None else None,
        "link_expires_at": _moment(link.until) if link is not None else None,
    }


def _bank(bank: BrokenBank) -> dict[str, Any]:
    return {
        "member_guid": bank.member_guid,
        "institution_code": bank.institution_code,
        "bank": shown(bank.institution_name or bank.institution_code or "") or None,
        "since": _moment(bank.since),
        "state": _STATES.get(bank.state, "broken"),
        "muted": bank.muted,
    }


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
