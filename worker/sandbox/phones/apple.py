"""A look-alike of APNs: HTTP/2 over TLS, with the checks and the error words of the real service."""

import asyncio
import base64
import json
import re
import ssl
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded

KEY_ID, TEAM_ID, TOPIC = "ABC123DEFG", "DEF123GHIJ", "com.acme.money"
DEVICE = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"

#: Instead of an answer: close the connection; never answer; reset the stream with REFUSED_STREAM; reset it with INTERNAL_ERROR; send
#: GOAWAY that includes this request; send GOAWAY that excludes it; send the headers and close the connection before the body.
DROP, HANG, REFUSE, RESET, LEAVE, LEAVE_UNSEEN, HALF = (
    "DROP",
    "HANG",
    "REFUSE",
    "RESET",
    "LEAVE",
    "LEAVE_UNSEEN",
    "HALF",
)

#: Reasons by status, as Apple's table has them.
STATUSES = {
    400: ("BadCollapseId", "BadDeviceToken", "BadExpirationDate", "BadMessageId", "BadPriority", "BadTopic",
          "DeviceTokenNotForTopic", "DuplicateHeaders", "IdleTimeout", "InvalidPushType", "MissingDeviceToken", "MissingTopic",
          "PayloadEmpty", "TopicDisallowed"),
    403: ("BadCertificate", "BadCertificateEnvironment", "ExpiredProviderToken", "Forbidden", "InvalidProviderToken",
          "MissingProviderToken", "UnrelatedKeyIdInToken", "BadEnvironmentKeyIdInToken"),
    404: ("BadPath",),
    405: ("MethodNotAllowed",),
    410: ("ExpiredToken", "Unregistered"),
    413: ("PayloadTooLarge",),
    429: ("TooManyProviderTokenUpdates", "TooManyRequests"),
    500: ("InternalServerError",),
    503: ("ServiceUnavailable", "Shutdown"),
}  # fmt: skip
STATUS_OF = {reason: status for status, reasons in STATUSES.items() for reason in reasons}


class Apple:
    """Each of ``answers`` answers one request instead of the checks: a reason, or one of the words above."""

    def __init__(self, public_key: ec.EllipticCurvePublicKey, tls: ssl.SSLContext | None = None) -> None:
        """Without ``tls`` it speaks HTTP/2 without TLS, which a client must know beforehand (RFC 9113, 3.3)."""
        self._public_key = public_key
        self._tls = tls
        self.answers: list[Any] = []
        self.devices = {DEVICE}
        self.gone: set[str] = set()
        #: Accepted messages by the device's token.
        self.delivered: Counter[str] = Counter()
        #: The payload of the newest message to each app.
        self.latest: dict[str, dict[str, Any]] = {}
        self.headers_of_answers: list[tuple[str, str]] = []
        self.requests: list[dict[str, str]] = []
        self.payloads: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Apple"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        scheme = "https" if self._tls is not None else "http"
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a server's runs in one
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            with suppress(ConnectionError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        h2.initiate_connection()
        writer.write(h2.data_to_send())
        requests: dict[int, tuple[dict[str, str], bytearray]] = {}
        while data := await reader.read(65_536):
            for event in h2.receive_data(data):
                if isinstance(event, RequestReceived):
                    requests[event.stream_id] = _text(event.headers), bytearray()
                elif isinstance(event, DataReceived):
                    requests[event.stream_id][1].extend(event.data)
                    h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    headers, body = requests.pop(event.stream_id)
                    if not self._answer(h2, event.stream_id, headers, bytes(body)):
                        writer.write(h2.data_to_send())
                        await writer.drain()
                        return
            writer.write(h2.data_to_send())
            await writer.drain()

    def _answer(self, h2: H2Connection, stream: int, headers: dict[str, str], body: bytes) -> bool:
        """Answer a request; returns whether the connection stays open."""
        self.requests.append(headers)
        self.asked.set()
        answer = self.answers.pop(0) if self.answers else self._classify(headers, body)
        if answer in {REFUSE, RESET}:
            h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM if answer == REFUSE else ErrorCodes.INTERNAL_ERROR)
        elif answer in {LEAVE, LEAVE_UNSEEN}:
            h2.close_connection(last_stream_id=stream if answer == LEAVE else max(stream - 2, 0))
        elif answer == HALF:
            h2.send_headers(stream, [(":status", "200")])
        elif answer not in {DROP, HANG}:
            self._say(h2, stream, headers, answer)
        return answer not in {DROP, HALF}

    def _say(self, h2: H2Connection, stream: int, headers: dict[str, str], answer: Any) -> None:
        status, body = (
            (STATUS_OF[answer], json.dumps({"reason": answer})) if answer in STATUS_OF else (answer or 200, "")
        )
        apns_id = ("apns-id", headers.get("apns-id", ""))
        h2.send_headers(stream, [(":status", str(status)), apns_id, *self.headers_of_answers], end_stream=not body)
        if body:
            h2.send_data(stream, body.encode(), end_stream=True)

    def _classify(self, headers: dict[str, str], body: bytes) -> str | None:  # noqa: C901, PLR0911, PLR0912 - one branch for each reason
        if headers[":method"] != "POST":
            return "MethodNotAllowed"
        if not (path := re.fullmatch(r"/3/device/([0-9a-fA-F]+)", headers[":path"])):
            return "BadPath"
        if problem := self._problem_of_token(headers.get("authorization", "")):
            return problem
        if "apns-topic" not in headers:
            return "MissingTopic"
        if headers["apns-topic"] != TOPIC:
            return "TopicDisallowed"
        if headers.get("apns-push-type") != "alert":
            return "InvalidPushType"
        if int(headers.get("apns-expiration", "-1")) <= time.time():
            return "BadExpirationDate"
        if not 0 < len(headers.get("apns-collapse-id", "").encode()) <= 64:
            return "BadCollapseId"
        if str(uuid.UUID(headers["apns-id"])) != headers["apns-id"]:
            return "BadMessageId"
        if headers.get("apns-priority") not in {"5", "10"}:
            return "BadPriority"
        if len(body) > 4096:
            return "PayloadTooLarge"
        if not json.loads(body).get("aps"):
            return "PayloadEmpty"
        if path[1] in self.gone:
            return "Unregistered"
        if path[1] not in self.devices:
            return "BadDeviceToken"
        self.payloads.append(json.loads(body))
        self.delivered[path[1]] += 1
        self.latest[path[1]] = self.payloads[-1]
        return None

    def _problem_of_token(self, authorization: str) -> str | None:
        scheme, _, token = authorization.partition(" ")
        if scheme != "bearer":
            return "MissingProviderToken"
        head, claims, signature = token.split(".")
        raw = _decoded(signature)
        der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        try:
            self._public_key.verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return "InvalidProviderToken"
        header, said = json.loads(_decoded(head)), json.loads(_decoded(claims))
        if len(raw) != 64 or (header["alg"], header["kid"], said["iss"]) != ("ES256", KEY_ID, TEAM_ID):
            return "InvalidProviderToken"
        age = time.time() - said["iat"]
        if age < -60:
            return "InvalidProviderToken"
        if age > 3600:
            return "ExpiredProviderToken"
        self.tokens.append(token)
        return None


def _text(headers: Iterable[Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers}


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
