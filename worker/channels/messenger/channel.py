"""The company's own messenger as a channel: signs a request, posts it once, classifies the answer."""

import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from worker.channels import Dispatching, Doubt, Failed, Message, Outcome, Refusal, Sent, TryLater, Unknown
from worker.channels.messenger.classifying import classify
from worker.channels.messenger.config import MessengerConfig
from worker.channels.messenger.request import content
from worker.channels.one_message import for_one_message
from worker.channels.push.http import HttpResponse, Poster
from worker.channels.push.pause import Pause
from worker.signing import Signer

#: Answers to HEAD that only say "no HEAD here".
_NO_HEAD = frozenset({405, 501})


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MessengerChannel:
    """Implements :class:`worker.channels.Channel`. Connects at the first send, and belongs to the event loop of that send."""

    kind = "messenger"

    def __init__(
        self,
        config: MessengerConfig,
        *,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """The settings were checked when they loaded. ``ssl_context`` replaces the system's certificates."""
        self._config = config
        self._signer = Signer(config.secrets)
        self._clock = clock
        self._poster = Poster(patience=config.patience, ssl_context=ssl_context)
        self._pause = Pause()

    async def send(self, message: Message, dispatching: Dispatching) -> Outcome:
        """See :meth:`worker.channels.Channel.send`.

        ``webhook-id`` and ``Idempotency-Key`` are the message's key, the same at every attempt. So a receiver that stores them can drop
        duplicates, even with ``AMBIGUOUS_SENDS=resend``.
        """
        if not message.banks:
            return Failed(code="no_banks")
        if message.link is None:  # the settings require PUBLIC_BASE_URL, so there is one
            return Failed(code="no_link")
        if paused := self._pause.paused():
            return paused
        config = self._config
        fields = content(message, message.link, app=config.app_name, default_locale=config.default_locale)
        body = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        await dispatching()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": message.key,
            **self._signer.headers(message.key, body, self._clock()),
        }
        return self._pause.note(for_one_message(message, await self._request("POST", headers, body.encode())))

    async def check(self) -> Outcome:
        """Whether the server answers: one HEAD. Whether it accepts our signature shows only with a message."""
        outcome = await self._request("HEAD", {}, b"")
        if isinstance(outcome, TryLater) and outcome.code not in {f"http_{status}" for status in _NO_HEAD}:
            return outcome
        if isinstance(outcome, Unknown):
            return TryLater(code=outcome.code)
        return Sent(code="ready")

    async def close(self) -> None:
        """Close all connections."""
        await self._poster.close()

    async def _request(self, method: str, headers: dict[str, str], body: bytes) -> Outcome:
        reply = await self._poster.request(method, self._config.url.get_secret_value(), headers=headers, body=body)
        if isinstance(reply, HttpResponse):
            return classify(reply)
        if isinstance(reply, TryLater):  # all messages go to the same server
            return TryLater(code=reply.code, whole_channel=True, refusal=Refusal(reply.code, Doubt.UNREACHABLE))
        return reply
