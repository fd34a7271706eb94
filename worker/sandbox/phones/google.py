"""A look-alike of FCM: the token endpoint and ``messages:send``, with the checks of the real ones."""

import asyncio
import base64
import itertools
import json
import re
import time
from collections import Counter
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

PROJECT = "acme-money"
EMAIL = "push@acme-money.iam.gserviceaccount.com"
KEY_ID = "c0ffee11"
DEVICE = "fX2k:APA91b-device-token_of_a_customer"

#: Instead of an answer: close the connection; never answer.
DROP, HANG = "DROP", "HANG"

_FIELDS = {"token", "notification", "data", "android", "apns", "webpush"}


def error(status: int, word: str, error_code: str | None = None, *, field: str | None = None, **headers: str) -> Any:
    """An error in FCM's form. Its text contains the token, as FCM's sometimes does.

    For an invalid token FCM answers ``INVALID_ARGUMENT`` without ``field``, since 2021 at the latest: ``details`` has only an ``FcmError``,
    and the message is the one below (firebase-admin-java, issue 1064; async-firebase, issue 15). Any other invalid part is named in
    ``field``.
    """
    details: list[dict[str, Any]] = []
    if error_code:
        details.append({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": error_code})
    if field:
        violation = {"field": field, "description": f"Invalid registration token {DEVICE}"}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    text = f"no {DEVICE}"
    if error_code == "INVALID_ARGUMENT" and not field:
        text = f"The registration token is not a valid FCM registration token {DEVICE}"
    body = {"error": {"code": status, "message": text, "status": word, "details": details}}
    return status, json.dumps(body), {name.replace("_", "-"): value for name, value in headers.items()}


class Google:
    """Each of ``token_answers`` and ``answers`` answers one request instead of the checks."""

    def __init__(self, public_key: rsa.RSAPublicKey) -> None:
        self._public_key = public_key
        self.token_answers: list[Any] = []
        self.answers: list[Any] = []
        self.devices = {DEVICE}
        self.gone: set[str] = set()
        #: Accepted messages by the device's token.
        self.delivered: Counter[str] = Counter()
        #: The payload of the newest message to each app.
        self.latest: dict[str, dict[str, Any]] = {}
        self.expires_in: Any = 3600
        self.issued: dict[str, float] = {}
        self.token_requests = 0
        self.requests: list[web.Request] = []
        self.dry_runs: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        #: A test can make token requests wait until this is set.
        self.token_gate: asyncio.Event | None = None
        #: Set by the first request of each kind.
        self.token_asked, self.asked = asyncio.Event(), asyncio.Event()
        self.closing = asyncio.Event()
        self._numbers = itertools.count(1)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/token", self.token)
        app.router.add_post("/v1/projects/{project}/messages:send", self.send)
        app.router.add_route("*", "/elsewhere", self.send)
        return app

    async def token(self, request: web.Request) -> web.StreamResponse:
        self.token_requests += 1
        self.token_asked.set()
        if self.token_gate is not None:
            await self.token_gate.wait()
        if self.token_answers:
            return await self._scripted(request, self.token_answers.pop(0))
        form = await request.post()
        problem = self._problem_of_assertion(str(form["assertion"]))
        if form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer" or problem:
            return web.json_response({"error": "invalid_grant", "error_description": problem}, status=400)
        token = f"ya29.{next(self._numbers)}"
        self.issued[token] = time.time() + int(self.expires_in)
        return web.json_response({"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"})

    def _problem_of_assertion(self, assertion: str) -> str | None:
        head, claims, signature = assertion.split(".")
        try:
            self._public_key.verify(
                _decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return "Invalid JWT Signature."
        header, said = json.loads(_decoded(head)), json.loads(_decoded(claims))
        now = time.time()
        wrong = {
            "alg": header["alg"] != "RS256" or header["kid"] != KEY_ID,
            "iss": said["iss"] != EMAIL,
            "aud": said["aud"] != "https://oauth2.googleapis.com/token",
            "scope": said["scope"] != "https://www.googleapis.com/auth/firebase.messaging",
            "iat": not now - 300 < said["iat"] <= now + 1,
            "exp": not said["iat"] < said["exp"] <= said["iat"] + 3600,
        }
        return next((claim for claim, is_wrong in wrong.items() if is_wrong), None)

    async def send(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.asked.set()
        body = await request.read()
        if self.answers:
            return await self._scripted(request, self.answers.pop(0))
        return await self._scripted(request, self._classify(request, body))

    def _classify(self, request: web.Request, body: bytes) -> Any:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.issued.get(token, 0.0) < time.time():
            return error(401, "UNAUTHENTICATED")
        if request.match_info["project"] != PROJECT:
            return error(403, "PERMISSION_DENIED")
        asked = json.loads(body)
        message = asked["message"]
        size = sum(
            len(json.dumps(message.get(part, {}), ensure_ascii=False).encode()) for part in ("notification", "data")
        )
        ttl = message.get("android", {}).get("ttl", "0s")
        if (
            request.content_type != "application/json"
            or set(message) - _FIELDS
            or size > 4096
            or not all(isinstance(value, str) for value in message.get("data", {}).values())
            or not re.fullmatch(r"\d+s", ttl)
            or int(ttl[:-1]) > 2_419_200
        ):
            return error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", field="message")
        if message["token"] in self.gone:
            return error(404, "NOT_FOUND", "UNREGISTERED")
        if message["token"] not in self.devices:
            return error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
        if asked.get("validate_only"):
            self.dry_runs.append(message)
        else:
            self.messages.append(message)
            self.delivered[message["token"]] += 1
            self.latest[message["token"]] = message.get("data", {})
        return 200, json.dumps({"name": f"projects/{PROJECT}/messages/{next(self._numbers)}"}), {}

    async def _scripted(self, request: web.Request, answer: Any) -> web.StreamResponse:
        if answer == HANG:
            await self.closing.wait()
        if answer in (DROP, HANG):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        status, body, headers = answer
        content_type = "application/json" if body.startswith("{") else "text/html"
        return web.Response(status=status, text=body, headers=headers, content_type=content_type)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
