"""Push to browsers as a channel: checks the subscription, encrypts the message, posts it, classifies the answer."""

import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from worker.channels import Dispatching, Doubt, Failed, Message, Outcome, Refusal, Sent, TryLater, Unknown
from worker.channels.last_accepted import LastAccepted
from worker.channels.push.http import PRIVATE_ADDRESS, HttpResponse, Poster
from worker.channels.push.payload import data_for, encode_payload, link_for, message_id
from worker.channels.push.text import word
from worker.channels.push.webpush.classifying import classify
from worker.channels.push.webpush.config import WebPushConfig
from worker.channels.push.webpush.public_resolver import PublicResolver
from worker.channels.push.webpush.subscription import Subscription, parse
from worker.channels.push.webpush.vapid import check_contact, load_vapid
from worker.errors import WorkerError

try:
    from pywebpush import WebPushException, webpush_async  # type: ignore[import-untyped]
except ImportError:
    raise WorkerError("push to browsers needs: pip install 'reconnection-worker[push]'") from None

#: Octets before encryption. Encrypted they are 4,096, which every push service accepts (RFC 8291, 4).
_PLAINTEXT_LIMIT = 3993


class WebPushChannel:
    """Implements :class:`worker.channels.Channel`. Connects at the first send, and belongs to the event loop of that send."""

    kind = "webpush"

    def __init__(self, config: WebPushConfig, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """Raises :class:`~worker.errors.SettingsError` if the key or the contact is missing or invalid."""
        self._config = config
        self._contact = check_contact(config.contact)
        self._vapid = load_vapid(config.vapid_key_file)
        self._last_accepted = LastAccepted()
        resolver = PublicResolver(allow_loopback=config.allow_loopback)
        self._poster = Poster(patience=config.patience, ssl_context=ssl_context, resolver=resolver)

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """See :meth:`worker.channels.Channel.send`."""
        if not message.banks:
            return Failed(code="no_banks")
        subscription = parse(message.address, self._config)
        if not isinstance(subscription, Subscription):
            return subscription
        payload = self._payload(message)
        if payload is None:
            return Failed(code="payload_too_large")
        return await self._post(subscription, payload, topic=message_id(message.key), dispatching=dispatching)

    async def check(self) -> Outcome:
        """Always ``ready``. Without a subscription only key and contact can be checked, and ``__init__`` has checked them."""
        return Sent(code="ready")

    async def close(self) -> None:
        """Close all connections."""
        await self._poster.close()

    def _payload(self, message: Message) -> bytes | None:
        """The JSON that the site's service worker gets and shows; ``None`` if it is too large."""
        text = word(message, app=self._config.app_name, default_locale=self._config.default_locale)

        def body(link: str | None) -> dict[str, Any]:
            fields = {"title": text.title, "body": text.body, "lang": text.language, "tag": message_id(message.key)}
            return {**fields, "data": data_for(message, link)}

        return encode_payload(body, link_for(message, include_link=self._config.include_link), limit=_PLAINTEXT_LIMIT)

    async def _post(
        self, subscription: Subscription, payload: bytes, *, topic: str, dispatching: Dispatching
    ) -> Outcome:
        session = _Session(self._poster, dispatching)
        with suppress(WebPushException):  # pywebpush raises it for every refusal; ``session.result`` has the answer
            await webpush_async(
                subscription.info(),
                payload,
                vapid_private_key=self._vapid,
                vapid_claims={"sub": self._contact, "aud": subscription.origin},
                ttl=self._config.ttl,
                timeout=self._config.patience,
                headers={"Topic": topic, "Urgency": "normal"},
                aiohttp_session=session,
            )
        result = session.result
        outcome = classify(result) if isinstance(result, HttpResponse) else result
        return self._last_accepted.attribute(subscription.origin, outcome)


class _Session:
    """Replaces the aiohttp session of pywebpush. A real one would follow redirects and read an answer of any length."""

    def __init__(self, poster: Poster, dispatching: Dispatching) -> None:
        self._poster = poster
        self._dispatching = dispatching
        self.result: HttpResponse | Outcome = Failed(code="not_encrypted")

    async def post(self, endpoint: str, *, data: bytes, headers: Mapping[str, str], **_options: object) -> "_Response":
        await self._dispatching()
        self.result = _result(await self._poster.post(endpoint, headers=headers, body=data))
        return _Response(self.result)


class _Response:
    """The part of an aiohttp response that pywebpush reads."""

    reason = ""

    def __init__(self, result: HttpResponse | Outcome) -> None:
        self.status = result.status if isinstance(result, HttpResponse) else 0

    async def text(self) -> str:
        return ""


def _result(result: HttpResponse | TryLater | Unknown) -> HttpResponse | Outcome:
    """``result``, with the refusal of an error before the request was sent."""
    if isinstance(result, TryLater) and result.code == PRIVATE_ADDRESS:  # a retry would find the same address
        return Failed(code="endpoint_private_address")
    if isinstance(result, TryLater):
        return TryLater(code=result.code, refusal=Refusal(result.code, Doubt.US))
    return result
