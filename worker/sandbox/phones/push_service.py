"""A look-alike of a browser's push service, with the checks of real ones (RFC 8030, 8188, 8292)."""

import asyncio
import json
import re
import time
from collections import Counter
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from worker.sandbox.phones.browser import decoded

#: Instead of an answer: close the connection; never answer.
DROP, HANG = "DROP", "HANG"

#: The answers of Google, Mozilla and Apple if a subscription was made with another key.
_GOOGLE_SAYS = "the VAPID credentials in the authorization header do not correspond to the credentials used to create the subscriptions."
OTHER_KEY_ANSWERS = [
    (403, _GOOGLE_SAYS),
    (401, '{"code":401,"errno":109,"error":"Unauthorized","message":"VAPID public key mismatch","more_info":"…"}'),
    (403, '{"reason":"VapidPkHashMismatch"}'),
]


class PushService:
    """Each of ``answers`` answers one request instead of the checks."""

    def __init__(self, application_key: bytes) -> None:
        #: The public VAPID key that all subscriptions were made with.
        self._application_key = application_key
        self.answers: list[Any] = []
        self.headers_of_answers: dict[str, str] = {}
        self.tokens = {"t0ken"}
        self.gone: set[str] = set()
        #: Accepted messages by the token at the end of the endpoint.
        self.delivered: Counter[str] = Counter()
        #: The newest message of each, encrypted.
        self.latest: dict[str, bytes] = {}
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.claims: list[dict[str, Any]] = []
        self.asked = asyncio.Event()
        self.closing = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.asked.set()
        body = await request.read()
        answer = self.answers.pop(0) if self.answers else self._classify(request, body)
        if answer == HANG:
            await self.closing.wait()
        if answer in (DROP, HANG):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        status, text = answer
        return web.Response(status=status, text=text, headers=self.headers_of_answers)

    def _classify(self, request: web.Request, body: bytes) -> tuple[int, str]:  # noqa: PLR0911 - one return for each check
        token = request.path.removeprefix("/wpush/v2/")
        if request.method != "POST":
            return 405, ""
        if token in self.gone:
            return 410, '{"errno": 106}'
        if token not in self.tokens:
            return 404, '{"errno": 102}'
        if problem := self._problem_of_vapid(request):
            return 401, problem
        if not re.fullmatch(r"\d+", request.headers.get("TTL", "")):
            return 400, '{"errno": 111}'
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", request.headers.get("Topic", "t")):
            return 400, '{"errno": 113}'
        if request.headers.get("Content-Encoding") != "aes128gcm":
            return 400, '{"errno": 110}'
        if len(body) > 4096:
            return 413, '{"errno": 104}'
        self.bodies.append(body)
        self.delivered[token] += 1
        self.latest[token] = body
        return 201, ""

    def _problem_of_vapid(self, request: web.Request) -> str | None:
        match = re.fullmatch(
            r"vapid t=([\w-]+)\.([\w-]+)\.([\w-]+),k=([\w-]+)", request.headers.get("Authorization", "")
        )
        if match is None:
            return '{"errno": 109, "message": "missing"}'
        head, claims, signature, key = match.groups()
        if decoded(key) != self._application_key:
            return OTHER_KEY_ANSWERS[1][1]
        raw = decoded(signature)
        der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decoded(key))
        try:
            public.verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return '{"errno": 109, "message": "signature"}'
        said = json.loads(decoded(claims))
        wrong = {
            "alg": json.loads(decoded(head))["alg"] != "ES256",
            "aud": said["aud"] != f"{request.scheme}://{request.host}",
            "exp": not time.time() < said["exp"] <= time.time() + 86_400,
            "sub": not re.fullmatch(r"(mailto:.+@|https://).+\..+", said.get("sub", "")),
        }
        self.claims.append(said)
        return next((f'{{"errno": 109, "message": "{claim}"}}' for claim, is_wrong in wrong.items() if is_wrong), None)
